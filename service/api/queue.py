"""Work waits here until it may begin, but not without end, and not for a caller who is gone.

The searches under way share the cores among themselves (`model.passes`), so several may be under
way a core: a long one does not hold up the short ones, and only what they hold in memory speaks
against more of them.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect

from service.api.problems import ProblemError
from service.callers import AbandonedError, Caller, current_caller
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

    async def run(self, work: Callable[[], T], until: float = float("inf")) -> T:
        """Run work when it is its turn, and return what it gives.

        A caller who hangs up gives up the place in the queue; work that is under way is told
        (`service.callers`).

        Args:
            work: runs in a thread.
            until: of `time.perf_counter`: what has no slot by then is refused.

        Raises:
            ProblemError: `overloaded`: there is too much to do.
            ClientDisconnect: its caller has hung up.
        """
        who = Caller()
        current_caller.set(who)
        watch = asyncio.create_task(_tell_when_gone(who, current_request.get()))
        start = time.perf_counter()
        try:
            await self._take_slot(who, until)
            try:
                self._metrics.waited(time.perf_counter() - start)
                return await anyio.to_thread.run_sync(work, limiter=self._threads)
            except Exception as error:
                # anyio's frame holds the error, which holds all frames: a cycle with a snapshot
                # in it, which could not be pruned until garbage is collected.
                traceback.clear_frames(error.__traceback__)
                raise
            finally:
                self._slots.release()
        except AbandonedError as error:
            self._metrics.refused("hung_up")
            raise ClientDisconnect from error  # nobody is told, so it counts as no answer
        finally:
            watch.cancel()

    async def _take_slot(self, who: Caller, until: float) -> None:
        try:
            self._slots.acquire_nowait()
            return
        except anyio.WouldBlock:
            pass
        if self.waiting >= self._max_waiting:
            raise self._overloaded(f"{self.waiting} requests are waiting already")
        seconds = min(self._seconds, max(0.0, until - time.perf_counter()))
        with anyio.move_on_after(seconds) as scope:
            who.when_gone = scope.cancel
            await self._slots.acquire()
        who.when_gone = None
        if scope.cancelled_caught:
            who.check()
            raise self._overloaded(f"there was no room within {seconds:.2g} s")

    def _overloaded(self, why: str) -> ProblemError:
        self._metrics.refused("overloaded")
        return ProblemError("overloaded", f"{why}: try again a little later")


async def _tell_when_gone(who: Caller, record: RequestRecord | None) -> None:
    """Say so when the caller hangs up: its request has been read, so nothing else can come."""
    if record is None or record.receive is None:
        return
    while (await record.receive())["type"] != "http.disconnect":
        pass
    who.leave()
