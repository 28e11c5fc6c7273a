from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import anyio
import httpx
import numpy as np
import pytest

from index.live_index import LiveIndex
from model.bundle import Bundle
from model.engine import Engine
from service.api.app import create_app
from service.live_search import LiveSearch
from service.records import SearchLimits
from service.settings import Settings

TEXT, IMAGE = "/v1/search/text", "/v1/search/image"
Ask = Callable[..., httpx.Response]


@pytest.fixture
def failing(bundle: Bundle, snapshot_root: Path) -> LiveSearch:
    """ONNX Runtime runs another graph than it is fed for, and says so."""
    engine = Engine(bundle, threads=1)
    engine._matcher = engine._text_encoder
    return LiveSearch(engine, LiveIndex.open(snapshot_root))


@pytest.fixture
def slow(engine: Engine, snapshot_root: Path) -> LiveSearch:
    """No reranker is as fast as this one has to be."""
    return LiveSearch(engine, LiveIndex.open(snapshot_root), SearchLimits(rerank_seconds=1e-9))


def asking(settings: Settings, live: LiveSearch) -> Iterator[tuple[Ask, Any]]:
    app = create_app(settings, live)
    app.state.service.ready = True

    def ask(method: str, path: str, **options: Any) -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return anyio.run(run)

    yield ask, app.state.service


@pytest.mark.parametrize("reason", ["reranker_failed", "reranker_over_budget"])
def test_without_the_reranker_the_recall_answers(
    reason: str, failing: LiveSearch, slow: LiveSearch, settings: Settings, photo: bytes
) -> None:
    live = failing if reason == "reranker_failed" else slow
    for ask, service in asking(settings, live):
        for _ in range(2):  # and such an answer is not kept
            for path, options in (
                (TEXT, {"json": {"query": "red dress", "k": 20}}),
                (IMAGE, {"files": {"image": photo}}),
                (IMAGE, {"json": {"item_id": live.index.latest.item(5).id}}),
            ):
                response = ask("POST", path, **options)
                body = response.json()
                assert response.status_code == 200
                assert response.headers["x-cache"] == "miss"
                assert body["degraded"] == {"reason": reason}
                assert [hit["recall_rank"] for hit in body["hits"]] == list(
                    range(1, len(body["hits"]) + 1)
                )
                assert all(hit["score"] is None for hit in body["hits"])
        recall = ask("POST", TEXT, json={"query": "red dress", "rerank": False}).json()
        assert recall["degraded"] is None
        assert service.metrics.counts()["degraded"] == {reason: 6}


def test_a_service_whose_reranker_fails_at_once_does_not_get_ready(
    failing: LiveSearch, settings: Settings
) -> None:
    app = create_app(settings, failing)

    async def run() -> None:
        async with app.router.lifespan_context(app):
            pass

    anyio.run(run)
    assert not app.state.service.ready


def test_a_match_has_nothing_to_fall_back_on(failing: LiveSearch, settings: Settings) -> None:
    pair = {"text": "red", "image_item_id": failing.index.latest.item(5).id}
    for ask, _ in asking(settings, failing):
        response = ask("POST", "/v1/match", json={"pairs": [pair]})
        assert (response.status_code, response.json()["code"]) == (500, "internal")
        assert "x-request-id" in response.headers


def test_without_memory_pairs_are_refused_and_traffic_goes_elsewhere(
    live: LiveSearch, settings: Settings
) -> None:
    """The matcher's passes do not fit: the allocator's own words, from a graph that says them."""
    engine = Engine(live.engine.bundle, threads=1)
    short = LiveSearch(engine, live.index)
    pair = {"text": "red", "image_item_id": live.index.latest.item(5).id}
    for ask, service in asking(settings, short):
        assert service.ready
        assert ask("POST", "/v1/match", json={"pairs": [pair]}).status_code == 200
        matcher, engine._matcher = engine._matcher, TooLarge()
        for ready in (200, 503, 503):
            response = ask("POST", "/v1/match", json={"pairs": [pair]})
            assert (response.status_code, response.json()["code"]) == (503, "out_of_memory")
            assert response.headers["retry-after"] == "1"
            assert ask("GET", "/readyz").status_code == ready
            gauge = f"fashionbert_ready {float(ready == 200)}"
            assert gauge in ask("GET", "/metrics").text.splitlines()
            status = ask("GET", "/v1/status").json()["status"]
            assert (status == "ready") == (ready == 200), status
        engine._matcher = matcher
        assert ask("POST", "/v1/match", json={"pairs": [pair]}).status_code == 200
        assert ask("GET", "/readyz").status_code == 200, "it fits again"


@pytest.mark.parametrize("session", ["_text_encoder", "_image_encoder"])
def test_without_memory_nothing_is_encoded_either(
    live: LiveSearch, settings: Settings, photo: bytes, session: str
) -> None:
    engine = Engine(live.engine.bundle, threads=1)
    asked: dict[str, Any] = {
        "_text_encoder": {"path": "/v1/search/text", "json": {"query": "red"}},
        "_image_encoder": {"path": "/v1/search/image", "files": {"image": photo}},
    }[session]
    for ask, _ in asking(settings, LiveSearch(engine, live.index)):
        encoder = getattr(engine, session)
        setattr(engine, session, TooLarge())
        for ready in (200, 503):
            response = ask("POST", **asked)
            assert (response.status_code, response.json()["code"]) == (503, "out_of_memory")
            assert ask("GET", "/readyz").status_code == ready
        setattr(engine, session, encoder)
        assert ask("POST", **asked).status_code == 200
        assert ask("GET", "/readyz").status_code == 200, "it fits again"


class TooLarge:
    """A session that asks for more memory than any machine has."""

    def run(self, *_: object) -> NoReturn:
        np.empty((2**40, 2**20), dtype=np.int8)
        raise AssertionError("that should not have been there")

    encode = run


def test_what_python_has_no_room_for_is_refused_too(live: LiveSearch, settings: Settings) -> None:
    engine = Engine(live.engine.bundle, threads=1)
    engine.tokenizer = TooLarge()  # type: ignore[assignment]
    for ask, _ in asking(settings, LiveSearch(engine, live.index)):
        response = ask("POST", "/v1/search/text", json={"query": "red"})
        assert (response.status_code, response.json()["code"]) == (503, "out_of_memory")
