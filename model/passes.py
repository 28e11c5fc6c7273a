"""A few threads that run the matcher's passes, in turn for all who wait.

Why not merge the rows of several requests into one pass? On a CPU a pass of about 500 tokens fills
the cache and a larger one is no faster a row (docs/EXPERIMENTS.md), so 64 candidates are several
passes anyhow and nothing is gained by filling up the last. What counts is that no core is idle and
nobody is starved. So each thread runs whole passes with one core, which needs no barriers inside
the operators; the passes of one request run on all cores when it is alone; and where there are
several, they take turns a pass at a time: a request with 1,000 candidates holds up one with 16 by
one pass, not by a thousand pairs.

Whoever finds a core free runs passes of its own in its own thread for as long as it is its turn,
and another's only together with them: to wake a thread that sleeps takes a tenth of a millisecond,
and so does being woken by it.

On a GPU a pass of thousands of tokens is what pays, and there the rows of those who wait do go into
one, as far as it has room: the next pass of the one whose turn it is, and then of each of the
others. That counts as their turn.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.cuts import Rows

_SMOOTHING = 0.2  # weight of the newest pass in the mean time of a token
_FORGETTING = 0.9  # what is left of that mean where it alone kept any pass from being begun


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


@dataclass(frozen=True, slots=True)
class Together:
    """How passes of several callers are run as one.

    Args:
        key: whose keys are equal can be run together.
        part: what stands for this caller there.
        compute: runs one pass over each caller's part and rows.
    """

    key: Hashable
    part: Any
    compute: Callable[[Sequence[tuple[Any, Rows]]], Any]


@dataclass(slots=True, eq=False)
class _Job:
    """One caller's passes: `left` to begin, `running`, and those that are `done`."""

    passes: Sequence[Rows]
    costs: Sequence[int]
    compute: Callable[[Rows], Any]
    limits: Limits
    together: Together | None
    left: deque[int]
    running: int = 0
    done: list[int] = field(default_factory=list)
    error: BaseException | None = None
    finished: threading.Event = field(default_factory=threading.Event)

    def size(self, number: int) -> tuple[int, int]:
        """The rows of a pass, and the tokens of each."""
        rows = len(self.passes[number])
        return rows, self.costs[number] // rows


class PassPool:
    """Threads that run passes, a pass of each caller in turn.

    Args:
        workers: passes that run at the same time.
        shared: most tokens, padding included, of a pass that several callers share; 0 where none
            is to be shared.
        name: of the threads.
    """

    def __init__(self, workers: int, shared: int = 0, name: str = "matcher") -> None:
        self.workers = workers
        self._name = name
        self.shared = shared
        self._jobs: deque[_Job] = deque()  # those with passes left; the first one is next
        self._running = 0  # threads that run a pass, callers' own among them
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._seconds_per_token = 0.0

    def run(
        self,
        passes: Sequence[Rows],
        costs: Sequence[int],
        compute: Callable[[Rows], Any],
        limits: Limits = UNLIMITED,
        together: Together | None = None,
    ) -> list[int]:
        """Run passes in their order, on as many threads as there are free; returns when all ended.

        Args:
            passes: what each computes on.
            costs: of each, in tokens: they tell how long it will take.
            compute: runs one pass; from several threads at the same time.
            limits: when to stop.
            together: how a pass is shared with others, if it may be. One that fails is run again
                as a pass of each, by `compute`.

        Returns:
            The numbers of the passes that were run, ascending.

        Raises:
            whatever `compute` raises first; the passes that are left are dropped then.
        """
        job = _Job(passes, costs, compute, limits, together, deque(range(len(passes))))
        if not passes:
            return []
        with self._changed:
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._start()
            self._jobs.append(job)
            # This thread is the first of them, if nobody else waits.
            wanted = min(len(passes), self.workers - self._running)
            self._changed.notify(wanted - (self._jobs[0] is job))
        self._help(job)
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
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (tasks := self._take()):
                    if self._closed and not self._jobs:
                        return
                    self._changed.wait()
            self._run(tasks)
            del tasks  # an idle thread keeps nobody's states

    def _help(self, job: _Job) -> None:
        """Run a caller's passes in its own thread while a core is free and it is their turn."""
        while True:
            with self._changed:
                tasks = self._take(job)
                if not tasks:
                    if self._jobs and self._running < self.workers:
                        self._changed.notify()  # it is another's turn on this core
                    return
            self._run(tasks)

    def _take(self, only: _Job | None = None) -> list[tuple[_Job, int]]:
        """The next pass and those that go into one with it; none if no core is free, or if it is
        not the turn of the `only` caller."""
        if self._running >= self.workers or (task := self._next(only)) is None:
            return []
        tasks = [task, *self._company(*task)]
        self._running += 1
        return tasks

    def _run(self, tasks: list[tuple[_Job, int]]) -> None:
        """Run what was taken."""
        try:
            if len(tasks) == 1:
                self._run_one(*tasks[0])
            else:
                self._run_shared(tasks)
        finally:
            with self._changed:
                self._running -= 1
                if self._closed:  # whoever waits for a core may find that nothing is left to do
                    self._changed.notify_all()

    def _next(self, only: _Job | None) -> tuple[_Job, int] | None:
        """The next pass of the caller whose turn it is; None if that is another than `only`, where
        one is named. Jobs that nobody waits for any more are dropped on the way.

        Passes that are not begun are not measured. So that one slow pass does not keep all later
        ones from being tried, the mean shrinks each time that it alone is why nothing is begun.
        """
        kept_off = False
        while self._jobs and only in (None, self._jobs[0]):
            job = self._jobs.popleft()
            number = job.left[0]
            now, deadline = time.perf_counter(), job.limits.deadline
            too_late = now + job.costs[number] * self._seconds_per_token > deadline
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
            self._seconds_per_token *= _FORGETTING
        return None

    def _company(self, job: _Job, number: int) -> list[tuple[_Job, int]]:
        """Passes of others that go into one with this, at most one of each; it is their turn too.

        None that would make a pass too late, of those that are in it already or by itself.
        """
        if not self.shared or job.together is None:
            return []
        company: list[tuple[_Job, int]] = []
        now, deadline = time.perf_counter(), job.limits.deadline
        rows, width = job.size(number)
        for other in list(self._jobs):
            if other is job or other.together is None or other.together.key != job.together.key:
                continue
            more, wide = other.size(other.left[0])
            cost = (rows + more) * max(width, wide)
            first = min(deadline, other.limits.deadline)
            if (
                cost > self.shared
                or now + cost * self._seconds_per_token > first
                or other.limits.cancelled()  # its own turn drops it
            ):
                continue
            rows, width, deadline = rows + more, max(width, wide), first
            company.append((other, other.left.popleft()))
            other.running += 1
            self._jobs.remove(other)
            if other.left:
                self._jobs.append(other)
        return company

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
        spent = time.perf_counter() - start
        with self._changed:
            if error is None:
                self._measure(spent / job.costs[number])
            self._ended(job, number, error)

    def _run_shared(self, tasks: list[tuple[_Job, int]]) -> None:
        first = tasks[0][0].together
        assert first is not None  # whoever has company can have it
        start = time.perf_counter()
        try:
            first.compute([(job.together.part, job.passes[n]) for job, n in tasks if job.together])
        except BaseException as error:  # too large, or the fault of one: each by itself tells
            if not isinstance(error, Exception):  # Ctrl-C, in the thread of the first one's caller
                job, number = tasks.pop(0)
                with self._changed:
                    self._ended(job, number, error)
            for job, number in tasks:
                self._run_one(job, number)
            return
        spent = time.perf_counter() - start
        sizes = [job.size(number) for job, number in tasks]
        with self._changed:
            self._measure(spent / (sum(n for n, _ in sizes) * max(width for _, width in sizes)))
            for job, number in tasks:
                self._ended(job, number, None)

    def _measure(self, seconds: float) -> None:
        """Take the newest pass into the mean time of a token."""
        mean = self._seconds_per_token or seconds
        self._seconds_per_token = mean + _SMOOTHING * (seconds - mean)

    def _ended(self, job: _Job, number: int, error: BaseException | None) -> None:
        job.running -= 1
        if error is None:
            job.done.append(number)
        else:
            job.error = job.error or error
            job.left.clear()
            if job in self._jobs:
                self._jobs.remove(job)
        if not job.left and not job.running:
            job.finished.set()
