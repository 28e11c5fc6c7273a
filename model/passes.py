"""A few threads that run the matcher's passes, in turn for all who wait.

Why not merge the rows of several requests into one pass? On a CPU a pass of about 500 tokens fills
the cache and a larger one is no faster a row (docs/EXPERIMENTS.md), so 64 candidates are several
passes anyhow and nothing is gained by filling up the last. What counts is that no core is idle and
nobody is starved. So each thread runs whole passes with one core, which needs no barriers inside
the operators; the passes of one request run on all cores when it is alone; and where there are
several, they take turns a pass at a time: a request with 1,000 candidates holds up one with 16 by
one pass, not by a thousand pairs.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

_SMOOTHING = 0.2  # weight of the newest pass in the mean time of a token
_FORGETTING = 0.9  # of that mean, whenever it was what kept all passes from being begun


def never() -> bool:
    """Nobody has hung up."""
    return False


@dataclass(frozen=True, slots=True)
class Limits:
    """When work is no longer wanted.

    Args:
        deadline: of `time.perf_counter`; no pass begins that would probably end later.
        cancelled: asked before each pass; what is left is dropped once it is true.
    """

    deadline: float = float("inf")
    cancelled: Callable[[], bool] = never


UNLIMITED = Limits()


@dataclass(slots=True, eq=False)
class _Job:
    """One caller's passes: `left` to begin, `running`, and those that are `done`."""

    passes: Sequence[Rows]
    costs: Sequence[int]
    compute: Callable[[Rows], Any]
    limits: Limits
    left: deque[int]
    running: int = 0
    done: list[int] = field(default_factory=list)
    error: BaseException | None = None
    finished: threading.Event = field(default_factory=threading.Event)


class PassPool:
    """Threads that run passes, a pass of each caller in turn.

    Args:
        workers: passes that run at the same time.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._jobs: deque[_Job] = deque()  # those with passes left; the first one is next
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._seconds_per_cost = 0.0

    def run(
        self,
        passes: Sequence[Rows],
        costs: Sequence[int],
        compute: Callable[[Rows], Any],
        limits: Limits = UNLIMITED,
    ) -> list[int]:
        """Run passes in their order, on as many threads as there are free; returns when all ended.

        Args:
            passes: what each computes on.
            costs: of each, in tokens: they tell how long it will take.
            compute: runs one pass; from several threads at the same time.
            limits: when to stop.

        Returns:
            The numbers of the passes that were run, ascending.

        Raises:
            whatever `compute` raises first; the passes that are left are dropped then.
        """
        job = _Job(passes, costs, compute, limits, deque(range(len(passes))))
        if not passes:
            return []
        with self._changed:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._start()
            self._jobs.append(job)
            self._changed.notify(len(passes))
        job.finished.wait()
        if job.error is not None:
            raise job.error
        return sorted(job.done)

    @property
    def waiting(self) -> int:
        """How many passes wait for a thread."""
        with self._changed:
            return sum(len(job.left) for job in self._jobs)

    def close(self) -> None:
        """End the threads, once they have run what is waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _start(self) -> None:
        while len(self._threads) < self.workers:
            thread = threading.Thread(target=self._work, name="matcher", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                while (task := self._next()) is None:
                    if self._closed:
                        return
                    self._changed.wait()
            job, number = task
            self._run_one(job, number)
            del job, task  # an idle thread keeps nobody's states

    def _next(self) -> tuple[_Job, int] | None:
        """The next pass of the caller whose turn it is; jobs nobody waits for fall out.

        Passes that are not begun are not measured. So that one slow pass does not keep all later
        ones from being tried, the mean shrinks each time that it alone is why nothing is begun.
        """
        kept_off = False
        while self._jobs:
            job = self._jobs.popleft()
            number = job.left[0]
            now, deadline = time.perf_counter(), job.limits.deadline
            too_late = now + job.costs[number] * self._seconds_per_cost > deadline
            if too_late or job.limits.cancelled():
                untouched = len(job.left) == len(job.passes)
                kept_off = kept_off or (too_late and untouched and now < deadline)
                self._drop(job)
                continue
            job.left.popleft()
            job.running += 1
            if job.left:
                self._jobs.append(job)
            return job, number
        if kept_off:
            self._seconds_per_cost *= _FORGETTING
        return None

    def _drop(self, job: _Job) -> None:
        job.left.clear()
        if not job.running:
            job.finished.set()

    def _run_one(self, job: _Job, number: int) -> None:
        start = time.perf_counter()
        error: BaseException | None = None
        try:
            job.compute(job.passes[number])
        except BaseException as caught:  # the caller's thread raises it
            error = caught
        spent = (time.perf_counter() - start) / job.costs[number]
        with self._changed:
            job.running -= 1
            if error is None:
                job.done.append(number)
                mean = self._seconds_per_cost or spent
                self._seconds_per_cost = mean + _SMOOTHING * (spent - mean)
            else:
                job.error = job.error or error
                job.left.clear()
                if job in self._jobs:
                    self._jobs.remove(job)
            if not job.left and not job.running:
                job.finished.set()


def cut(
    lengths: NDArray[np.int32], extra: int, budget: int, window: int = 0, workers: int = 1
) -> list[Rows]:
    """Rows in passes of like length, so that little of a pass is padding.

    They are as many as keep all workers busy to the end, if they are not too small then: five
    passes on two cores take as long as six, so it is six smaller ones.

    Args:
        lengths: int32 [B], the tokens of each row's text.
        extra: tokens that each row has beside them: its patches.
        budget: most tokens of a pass, padding included; a row that is longer is alone.
        window: so many rows are sorted among themselves before the next ones follow; 0 is all.
        workers: run passes at the same time.
    """
    passes: list[Rows] = []
    for start in range(0, len(lengths), window or max(1, len(lengths))):
        part = lengths[start : start + window] if window else lengths
        order = np.argsort(part, kind="stable")
        costs = part[order].astype(np.int64) + extra
        fewest = _filled(costs, budget)
        most = max(len(fewest), int(2 * costs.sum()) // budget)  # of half the budget
        ends = _even(costs, min(most, -(-len(fewest) // workers) * workers))
        if np.max(np.diff(ends, prepend=0) * costs[ends - 1]) > budget:  # padding is uneven
            ends = fewest
        passes += [rows + start for rows in np.split(order, ends[:-1])]
    return passes


def _filled(costs: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Where passes end if each takes as many rows as it can; costs are ascending."""
    ends, first = [], 0
    for row in range(1, len(costs)):
        if (row + 1 - first) * int(costs[row]) > budget:
            ends.append(row)
            first = row
    return np.array([*ends, len(costs)], dtype=np.int64)


def _even(costs: NDArray[np.int64], passes: int) -> NDArray[np.int64]:
    """Where at most so many passes end if all cost about the same."""
    middles = np.cumsum(costs) - costs / 2
    numbers = (middles * passes / costs.sum()).astype(np.int64)
    return np.append(np.flatnonzero(np.diff(numbers)) + 1, len(costs))
