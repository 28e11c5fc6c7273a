"""Work waits here until it may begin, but not without end, and not for a caller who is gone.

The searches under way share the cores among themselves (`model.passes`), so several may be under
way a core: a long one does not hold up the short ones, and only what they hold in memory speaks
against more of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from service.api.problems import ProblemError
from service.batching import AbandonedError, Caller, current_caller
from service.logs import RequestRecord, current_request
from service.metrics import Metrics

T = TypeVar("T")


class Queue:
    """Runs work in threads, `concurrency` at a time.

    Args:
        concurrency: pieces of work that are under way at the same time.
        max_waiting: so many may wait; the next one is refused at once.
        seconds: what waited longer is refused: its caller has given up, or soon will.
        metrics: hear of waits and refusals.
    """

    def __init__(
        self, concurrency: int, max_waiting: int, seconds: float, metrics: Metrics
    ) -> None:
        self._slots = anyio.Semaphore(concurrency)
        self._threads = anyio.CapacityLimiter(concurrency)
        self._concurrency = concurrency
        self._max_waiting = max_waiting
        self._seconds = seconds
        self._metrics = metrics

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._slots.statistics().tasks_waiting

    @property
    def computing(self) -> int:
        """How many compute."""
        return self._concurrency - self._slots.value

    async def run(self, work: Callable[[], T]) -> T:
        """What the work gives.

        Raises:
            ProblemError: `overloaded`: there is too much to do.
        """
        start = time.perf_counter()
        await self._take_slot()
        try:
            self._metrics.waited(time.perf_counter() - start)
            return await self._watched(work)
        except AbandonedError as error:
            raise self._overloaded(str(error), reason="hung_up") from error
        finally:
            self._slots.release()

    async def _watched(self, work: Callable[[], T]) -> T:
        """Run work in a thread; if its caller hangs up, the work is told (`service.batching`)."""
        who = Caller()
        current_caller.set(who)
        watch = asyncio.create_task(_tell_when_gone(who, current_request.get()))
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._threads)
        finally:
            watch.cancel()

    async def _take_slot(self) -> None:
        try:
            self._slots.acquire_nowait()
            return
        except anyio.WouldBlock:
            pass
        if self.waiting >= self._max_waiting:
            raise self._overloaded(f"{self.waiting} requests are waiting already")
        with anyio.move_on_after(self._seconds) as scope:
            await self._slots.acquire()
        if scope.cancelled_caught:
            raise self._overloaded(f"there was no room within {self._seconds:g} s")
        if await _hung_up(current_request.get()):
            self._slots.release()
            raise self._overloaded("the caller has hung up", reason="hung_up")

    def _overloaded(self, why: str, reason: str = "overloaded") -> ProblemError:
        self._metrics.refused(reason)
        return ProblemError("overloaded", f"{why}: try again a little later")


async def _tell_when_gone(who: Caller, record: RequestRecord | None) -> None:
    """Say so when the caller hangs up: its request has been read, so nothing else can come."""
    if record is None or record.receive is None:
        return
    while (await record.receive())["type"] != "http.disconnect":
        pass
    who.leave()


async def _hung_up(record: RequestRecord | None) -> bool:
    """Whether the caller is gone. Its request has been read: what else comes tells only that."""
    if record is None or record.receive is None:
        return False
    with anyio.CancelScope() as at_once:
        at_once.cancel()
        message = await record.receive()
        return bool(message["type"] == "http.disconnect")
    return False
