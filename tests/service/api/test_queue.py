from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from service.api.problems import ProblemError
from service.api.queue import Queue
from service.api.state import Service
from service.callers import AbandonedError, caller
from service.logs import RequestRecord, current_request
from service.metrics import Metrics
from service.records import MatchResult, SearchResult
from service.settings import Settings


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():
            await anyio.sleep(0.005)


def run(test: Callable[[Queue, threading.Event], Awaitable[None]], seconds: float = 60) -> Metrics:
    """A queue with one slot, which is taken until the event is set, and two places to wait."""
    metrics = Metrics("0")

    async def main() -> None:
        queue = Queue(1, 2, seconds, metrics)
        release = threading.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.run, release.wait)
            await until(lambda: queue.computing == 1)
            try:
                await test(queue, release)
            finally:
                release.set()
        assert (queue.waiting, queue.computing) == (0, 0)

    anyio.run(main)
    return metrics


def test_so_many_wait_and_the_next_one_is_refused() -> None:
    done: list[int] = []

    async def test(queue: Queue, release: threading.Event) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(2):
                tasks.start_soon(queue.run, lambda number=number: done.append(number))
            await until(lambda: queue.waiting == 2)
            with pytest.raises(ProblemError) as caught:
                await queue.run(lambda: done.append(9))
            assert caught.value.code == "overloaded"
            assert caught.value.response().headers["retry-after"] == "1"
            release.set()

    metrics = run(test)
    assert done == [0, 1]
    assert metrics.counts()["refused"] == {"overloaded": 1}
    assert metrics.counts()["queue_seconds"] == {"": 3}


def test_nobody_waits_for_ever() -> None:
    async def test(queue: Queue, release: threading.Event) -> None:
        with pytest.raises(ProblemError, match="no room within"):
            await queue.run(lambda: None)

    assert run(test, seconds=0.05).counts()["refused"] == {"overloaded": 1}


def test_who_hangs_up_gives_up_its_place_at_once() -> None:
    done: list[str] = []
    hang_up = anyio.Event()

    async def receive_hang_up() -> Message:
        await hang_up.wait()
        return {"type": "http.disconnect"}

    async def receive_nothing() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def test(queue: Queue, release: threading.Event) -> None:
        async def ask(name: str, receive: Receive) -> None:
            current_request.set(RequestRecord("id", receive))
            with contextlib.suppress(ClientDisconnect):
                await queue.run(lambda: done.append(name))

        async with anyio.create_task_group() as tasks:
            for name, receive in (("gone", receive_hang_up), ("there", receive_nothing)):
                tasks.start_soon(ask, name, receive)
            await until(lambda: queue.waiting == 2)
            hang_up.set()
            await until(lambda: queue.waiting == 1)
            tasks.start_soon(ask, "later", receive_nothing)
            await until(lambda: queue.waiting == 2)
            release.set()

    counted: Any = run(test).counts()["refused"]
    assert done == ["there", "later"]
    assert counted == {"hung_up": 1}


def test_nobody_waits_longer_than_its_own_time() -> None:
    async def test(queue: Queue, release: threading.Event) -> None:
        for seconds in (-1, 0.05):
            with pytest.raises(ProblemError, match="no room within"):
                await queue.run(lambda: None, time.perf_counter() + seconds)

    assert run(test).counts()["refused"] == {"overloaded": 2}


def test_who_hangs_up_is_told_to_the_work() -> None:
    """Work that is under way hears of it and stops; its place is free for others."""
    hang_up = anyio.Event()
    stopped: list[str] = []

    async def receive() -> Message:
        await hang_up.wait()
        return {"type": "http.disconnect"}

    def work() -> None:
        who = caller()
        while not who.has_left():
            pass
        stopped.append("heard")
        raise AbandonedError("the caller has hung up")

    async def main() -> None:
        queue = Queue(1, 2, 60, metrics)

        async def ask() -> None:
            current_request.set(RequestRecord("id", receive))
            with pytest.raises(ClientDisconnect):
                await queue.run(work)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await until(lambda: queue.computing == 1)
                hang_up.set()
            assert await queue.run(lambda: not caller().gone), "the next one is another"

    metrics = Metrics("0")
    anyio.run(main)
    assert stopped == ["heard"]
    assert metrics.counts()["refused"] == {"hung_up": 1}


def test_outside_of_requests_nobody_hangs_up() -> None:
    assert not caller().has_left()


def test_searches_wait_for_no_match_and_no_write_and_for_others_within_their_budget() -> None:
    release = threading.Event()
    nothing = np.zeros(0, dtype=np.float32)
    found = SearchResult([], False, {})

    def match() -> MatchResult:
        release.wait()
        return MatchResult(nothing, nothing, nothing > 0, {})

    def search() -> SearchResult:
        release.wait()
        return found

    async def main() -> None:
        settings = Settings(
            bundle=Path("b"), snapshots=Path("s"), concurrency=1, write_concurrency=1
        )
        service = Service(settings, "0")
        async with anyio.create_task_group() as tasks:
            try:
                tasks.start_soon(service.match, match)
                tasks.start_soon(service.store, release.wait)
                await until(lambda: service.computing == 2)
                with anyio.fail_after(60):
                    assert await service.search(lambda: found) is found
                tasks.start_soon(service.search, search)
                await until(lambda: service.computing == 3)
                with pytest.raises(ProblemError, match=r"no room within 0\.0"):
                    await service.search(lambda: found, time.perf_counter() + 0.05)
            finally:
                release.set()

    anyio.run(main)
