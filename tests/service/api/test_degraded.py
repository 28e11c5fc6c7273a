from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest

from index.snapshot import Snapshot
from model.bundle import Bundle
from model.engine import Engine
from service.api.app import create_app
from service.records import SearchLimits
from service.search import Searcher
from service.settings import Settings

TEXT, IMAGE = "/v1/search/text", "/v1/search/image"
Ask = Callable[..., httpx.Response]


@pytest.fixture
def failing(bundle: Bundle, snapshot: Snapshot) -> Searcher:
    """ONNX Runtime runs another graph than it is fed for, and says so."""
    engine = Engine(bundle, threads=1)
    engine._matcher = engine._text_encoder
    return Searcher(engine, snapshot)


@pytest.fixture
def slow(engine: Engine, snapshot: Snapshot) -> Searcher:
    """No reranker is as fast as this one has to be."""
    return Searcher(engine, snapshot, SearchLimits(rerank_seconds=1e-9))


def asking(settings: Settings, searcher: Searcher) -> Iterator[tuple[Ask, Any]]:
    app = create_app(settings, searcher)
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
    reason: str, failing: Searcher, slow: Searcher, settings: Settings, photo: bytes
) -> None:
    searcher = failing if reason == "reranker_failed" else slow
    for ask, service in asking(settings, searcher):
        for _ in range(2):  # and such an answer is not kept
            for path, options in (
                (TEXT, {"json": {"query": "red dress", "k": 20}}),
                (IMAGE, {"files": {"image": photo}}),
                (IMAGE, {"json": {"item_id": searcher.snapshot.ids[5]}}),
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
    failing: Searcher, settings: Settings
) -> None:
    app = create_app(settings, failing)

    async def run() -> None:
        async with app.router.lifespan_context(app):
            pass

    anyio.run(run)
    assert not app.state.service.ready


def test_a_match_has_nothing_to_fall_back_on(failing: Searcher, settings: Settings) -> None:
    pair = {"text": "red", "image_item_id": failing.snapshot.ids[5]}
    for ask, _ in asking(settings, failing):
        response = ask("POST", "/v1/match", json={"pairs": [pair]})
        assert (response.status_code, response.json()["code"]) == (500, "internal")
        assert "x-request-id" in response.headers
