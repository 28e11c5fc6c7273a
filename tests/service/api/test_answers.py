from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from service.api.answers import EncodedQuery, cached_answer
from service.api.schemas import Degraded, SearchResponse, TextSearch
from service.cache import ByteLru, Cache
from service.metrics import Metrics
from service.records import SearchLimits
from service.search import Searcher

Serve = Callable[..., Any]
TEXT, IMAGE = "/v1/search/text", "/v1/search/image"


def hits(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    answered: list[Any] = response.json()["hits"]
    return answered


def test_an_answer_is_kept(serve: Serve, photo: bytes) -> None:
    with serve() as running:
        body = {"query": "red dress", "k": 5}
        first = running.client.post(TEXT, json=body)
        again = running.client.post(TEXT, json=body)
        assert (first.headers["x-cache"], again.headers["x-cache"]) == ("miss", "hit")
        assert first.content == again.content
        timed = running.client.post(TEXT, json={**body, "timings": True})
        assert timed.headers["x-cache"] == "hit"
        assert set(timed.json()["timings"]) == {"cache", "total"}
        # The same picture however it comes; whatever else the request says is another answer.
        for expected in ("miss", "hit"):
            by_file = running.client.post(IMAGE, files={"image": photo}, data={"k": "4"})
            assert by_file.headers["x-cache"] == expected
        for other in ({"k": 6}, {"rerank": False}, {"candidates": 15}, {"query": "red  dress"}):
            response = running.client.post(TEXT, json={**body, **other})
            assert response.headers["x-cache"] == "miss"
        counts = running.service.metrics.counts()["cache"]
        assert counts["queries memory"] == 3
        assert running.client.post(TEXT, json={**body, "k": 0}).status_code == 422


class Asking:
    """Asks for an answer of what these parts say, which is `found` unless it was kept."""

    def __init__(self) -> None:
        self.answers = Cache("answers", ByteLru(1_000_000), Metrics("0"))
        self.found = SearchResponse(hits=[], matching=0, truncated=False, model="m", snapshot="1")

    def was_kept(self, **changes: Any) -> bool:
        parts: dict[str, Any] = {
            "version": "1",
            "model": "m",
            "snapshot": "00000001",
            "key": "built from",
            "created": "2026-11-20T23:10:00+00:00",
            "limits": SearchLimits(),
            "kind": "text",
            "candidates": 16,
            "image": None,
            "body": {},
            **changes,
        }
        manifest = SimpleNamespace(key=parts["key"])
        snapshot = SimpleNamespace(
            name=parts["snapshot"], manifest=manifest, created=parts["created"]
        )
        engine = SimpleNamespace(model_id=parts["model"])
        service: Any = SimpleNamespace(version=parts["version"], answers=self.answers)
        searcher: Any = SimpleNamespace(engine=engine, snapshot=snapshot, limits=parts["limits"])
        searched = False

        async def search() -> SearchResponse:
            nonlocal searched
            searched = True
            return self.found

        body = TextSearch(**{"query": "coat", **parts["body"]})
        options = {"candidates": parts["candidates"], "image": parts["image"]}
        asyncio.run(cached_answer(service, searcher, parts["kind"], body, search, **options))
        return not searched


def test_whatever_an_answer_depends_on_is_another_answer() -> None:
    asking = Asking()
    assert [asking.was_kept(), asking.was_kept()] == [False, True]
    changes: list[dict[str, Any]] = [
        {"version": "2"},
        {"model": "n"},
        {"snapshot": "00000001+1"},
        {"key": "built from others"},  # as of another folder with the same names
        {"created": "2026-11-21T23:10:00+00:00"},
        {"limits": SearchLimits(max_facets=1)},
        {"kind": "image"},
        {"candidates": 17},
        {"image": b"one"},
        {"image": b"other"},
        {"body": {"query": "Coat"}},
        {"body": {"k": 7}},
        {"body": {"rerank": False}},
        {"body": {"filters": {"colour": "red"}}},
        {"body": {"facets": ["colour"]}},
        {"body": {"facets": ["colour"], "max_facet_values": 3}},
    ]
    for change in changes:
        assert [asking.was_kept(**change) for _ in range(2)] == [False, True], change
    assert asking.was_kept(body={"timings": True, "budget_ms": 5})
    for filters, kept in (({"a": 1, "b": 2}, False), ({"b": 2, "a": 1}, True)):
        assert asking.was_kept(body={"filters": filters}) == kept  # whose order says nothing


def test_an_answer_that_is_less_than_it_could_be_is_not_kept() -> None:
    asking = Asking()
    whole = asking.found
    degraded = Degraded(reason="reranker_failed")
    for less in ({"degraded": degraded}, {"candidates": 16, "reranked": 15}):
        asking.found = whole.model_copy(update=less)
        assert [asking.was_kept() for _ in range(2)] == [False, False]
    asking.found = whole.model_copy(update={"candidates": 16, "reranked": 16})
    assert [asking.was_kept() for _ in range(2)] == [False, True]


def test_a_query_is_kept_for_its_own_model_and_version(searcher: Searcher) -> None:
    service: Any = SimpleNamespace(
        version="1", queries=Cache("queries", ByteLru(1_000_000), Metrics("0"))
    )
    EncodedQuery(service, searcher, "red").keep(searcher.search_text("red", 1, rerank=False))

    def is_there(query: str, of: Any = searcher) -> bool:
        return asyncio.run(EncodedQuery(service, of, query).find()) is not None

    assert is_there(" red ")
    assert not is_there("Red")
    shape = {"hidden_size": searcher.engine.hidden_size, "recall_size": searcher.engine.recall_size}
    assert not is_there("red", SimpleNamespace(engine=SimpleNamespace(model_id="fb-0", **shape)))
    service.version = "2"
    assert not is_there("red")


def test_limits_hold_for_what_is_kept_too(serve: Serve, redis: Any) -> None:
    """Two services with other limits share one Redis."""
    body = {"query": "coat", "k": 150}
    shared = {"redis_url": SecretStr(redis.url), "redis_timeout": 30}
    with serve(**shared) as wide, serve(**shared, max_k=100) as narrow:
        assert len(hits(wide.client.post(TEXT, json=body))) == 96
        assert narrow.client.post(TEXT, json=body).json()["code"] == "out_of_range"


def test_two_processes_share_answers(serve: Serve, redis: Any) -> None:
    body = {"query": "blue coat", "k": 5}
    shared = {"redis_url": SecretStr(redis.url), "redis_timeout": 30}
    with serve(**shared) as running:
        first = running.client.post(TEXT, json=body)
    with serve(**shared) as running:
        again = running.client.post(TEXT, json=body)
        assert again.headers["x-cache"] == "hit"
        assert first.content == again.content
        assert running.service.metrics.counts()["cache"] == {"answers redis": 1}


def test_what_was_deleted_is_never_answered(serve: Serve, redis: Any, root: Path) -> None:
    """Nor by another process that has the old answer in its memory and in Redis."""
    body = {"query": "dress", "k": 200, "rerank": False}
    shared = {"snapshots": root, "redis_url": SecretStr(redis.url), "redis_timeout": 30}
    with serve(**shared) as one, serve(**shared) as other:
        for running in (one, other):
            before = hits(running.client.post(TEXT, json=body))
            assert running.client.post(TEXT, json=body).headers["x-cache"] == "hit"
        gone = before[0]["id"]
        deleted = one.client.delete(f"/v1/items/{quote(gone, safe='')}").json()
        assert deleted["outcome"] == "deleted"
        after = one.client.post(TEXT, json=body)
        assert after.headers["x-cache"] == "miss"
        assert {hit["id"] for hit in hits(after)} == {hit["id"] for hit in before} - {gone}
        deadline = time.monotonic() + 60
        while (answer := other.client.post(TEXT, json=body)).json()["snapshot"] != (
            deleted["snapshot"]
        ):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert answer.json()["hits"] == after.json()["hits"]
    with serve(**shared) as again:
        answer = again.client.post(TEXT, json=body)
        assert (answer.headers["x-cache"], answer.json()["hits"]) == ("hit", after.json()["hits"])


def test_after_a_restore_no_answer_of_the_lost_writes_is_given(
    serve: Serve, redis: Any, root: Path, tmp_path: Path
) -> None:
    """Writes have the numbers of those that the backup lacks."""
    body = {"query": "dress", "k": 200, "rerank": False}
    shared = {"snapshots": root, "redis_url": SecretStr(redis.url), "redis_timeout": 30}
    with serve(**shared) as running:
        ids = [hit["id"] for hit in hits(running.client.post(TEXT, json=body))]
        delete(running, ids[0])
        backup = shutil.copytree(root / "delta", tmp_path / "backup")
        delete(running, ids[1])
        version = delete(running, ids[2])
        assert len(hits(running.client.post(TEXT, json=body))) == len(ids) - 3
    shutil.rmtree(root / "delta")
    shutil.copytree(backup, root / "delta")
    with serve(**shared) as running:
        delete(running, ids[5])
        assert delete(running, ids[2]) == version
        answer = running.client.post(TEXT, json=body)
        assert answer.headers["x-cache"] == "miss"
        assert answer.json()["snapshot"] == version
        assert {hit["id"] for hit in hits(answer)} == {*ids} - {ids[0], ids[5], ids[2]}


def delete(running: Any, id: str) -> str:
    """The version in which it is gone."""
    answer = running.client.delete(f"/v1/items/{quote(id, safe='')}").json()
    assert answer["outcome"] == "deleted"
    version: str = answer["snapshot"]
    return version


def test_with_redis_stalled_gone_and_back(serve: Serve, redis: Any) -> None:
    with serve(cache_bytes=0) as running:
        right = [
            hits(running.client.post(TEXT, json={"query": f"dress {number}"}))
            for number in range(6)
        ]
    shared = {"redis_url": SecretStr(redis.url), "redis_timeout": 0.2, "cache_bytes": 0}
    with serve(**shared, rate_limit=1000, rate_burst=1000) as running:
        link = running.service.redis
        link._ask_again = 0.1

        def ask() -> None:
            for number, expected in enumerate(right):
                response = running.client.post(TEXT, json={"query": f"dress {number}"})
                assert hits(response) == expected

        ask()
        redis.send(signal.SIGSTOP)
        ask()
        assert running.client.get("/v1/status").json()["redis"] == "down"
        redis.send(signal.SIGCONT)
        wait_until_up(running)
        ask()
        redis.stop()
        ask()
        redis.start()
        wait_until_up(running)
        with redis.client() as client:
            ask()
            for key in client.scan_iter():
                client.set(key, b"junk")
            ask()
        assert running.client.get("/v1/status").json()["refused"] == {}


def wait_until_up(running: Any) -> None:
    deadline = time.monotonic() + 60
    while not running.service.redis.up:
        assert time.monotonic() < deadline, "Redis is not taken back"
        time.sleep(0.02)
