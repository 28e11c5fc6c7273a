"""Writes are told over Redis, and found without."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from index.live_index import LiveIndex
from index.snapshot import Snapshot
from service.change_feed import CHANNEL, ChangeFeed
from service.redis_link import RedisLink

NEVER = 3600.0  # seconds between two looks at the folder


def shared(redis: Any, root: Path) -> dict[str, Any]:
    return {"snapshots": root, "redis_url": SecretStr(redis.url), "redis_timeout": 30}


def until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_heard(redis: Any, listeners: int) -> None:
    with redis.client() as client:
        until(lambda: client.pubsub_numsub(CHANNEL)[0][1] == listeners)


def version(running: Any) -> str:
    snapshot: str = running.client.get("/v1/index").json()["snapshot"]
    return snapshot


def test_the_others_are_told(serve: Any, redis: Any, root: Path, snapshot: Snapshot) -> None:
    with (
        serve(**shared(redis, root), watch=NEVER) as one,
        serve(**shared(redis, root), watch=NEVER) as other,
    ):
        until_heard(redis, 2)
        one.client.delete(f"/v1/items/{snapshot.ids[20]}")
        until(lambda: version(other) == f"{snapshot.name}+1")
        assert other.client.get(f"/v1/items/{snapshot.ids[20]}").status_code == 404
        with redis.client() as client:
            client.publish(CHANNEL, b"\xff junk")
        other.client.delete(f"/v1/items/{snapshot.ids[21]}")
        until(lambda: version(one) == f"{snapshot.name}+2")

        redis.stop()
        redis.start()
        until_heard(redis, 2)
        until(lambda: one.service.redis.up)
        one.client.delete(f"/v1/items/{snapshot.ids[22]}")
        until(lambda: version(other) == f"{snapshot.name}+3")
    until_heard(redis, 0)


def test_the_others_are_told_while_they_open_a_snapshot(
    serve: Any, redis: Any, root: Path, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = threading.Event()
    with (
        serve(**shared(redis, root), watch=NEVER) as one,
        serve(**shared(redis, root), watch=NEVER) as other,
    ):
        until_heard(redis, 2)
        monkeypatch.setattr(LiveIndex, "_look_for_snapshot", lambda index: opened.wait(90))
        one.client.delete(f"/v1/items/{snapshot.ids[20]}")
        try:
            until(lambda: version(other) == f"{snapshot.name}+1")
        finally:
            opened.set()


def test_without_redis_they_find_it(serve: Any, redis: Any, root: Path, snapshot: Snapshot) -> None:
    with (
        serve(**shared(redis, root), watch=0.02) as one,
        serve(**shared(redis, root), watch=0.02) as other,
    ):
        redis.stop()
        assert one.client.delete(f"/v1/items/{snapshot.ids[20]}").status_code == 200
        until(lambda: version(other) == f"{snapshot.name}+1")


def test_a_write_that_ends_after_the_service_fails_not_for_that(
    redis: Any, snapshot_root: Path
) -> None:
    """Its thread may outlive the event loop, and the write is stored."""

    async def serve_and_end() -> ChangeFeed:
        link = RedisLink(redis.url, timeout=30)
        feed = ChangeFeed(link, LiveIndex.open(snapshot_root))
        await feed.close()
        await link.close()
        return feed

    asyncio.run(serve_and_end()).announce("00000001+1")
