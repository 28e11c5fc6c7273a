from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.cuts import Rows, cut
from model.passes import Limits, PassPool, Together


def rows(*numbers: int) -> list[Rows]:
    return [np.array([number], dtype=np.int64) for number in numbers]


def costs(passes: list[Rows]) -> list[int]:
    return [1] * len(passes)


def test_all_passes_are_run_once() -> None:
    pool = PassPool(3)
    seen: list[int] = []
    passes = rows(*range(50))
    assert pool.run(passes, costs(passes), lambda part: seen.append(int(part[0]))) == list(
        range(50)
    )
    assert sorted(seen) == list(range(50))
    assert pool.run([], [], seen.append) == []
    pool.close()


def test_a_long_request_does_not_hold_up_a_short_one() -> None:
    pool = PassPool(1)
    order: list[str] = []
    started, go = threading.Event(), threading.Event()

    def long(part: Rows) -> None:
        started.set()
        go.wait()
        order.append("long")

    passes = rows(*range(20))
    first = threading.Thread(target=pool.run, args=(passes, costs(passes), long))
    first.start()
    started.wait()
    short = rows(*range(2))
    second = threading.Thread(
        target=pool.run, args=(short, costs(short), lambda part: order.append("short"))
    )
    second.start()
    while pool.waiting < 19 + 2:
        time.sleep(0.001)
    go.set()
    first.join()
    second.join()
    assert order[:5] == ["long", "long", "short", "long", "short"]
    assert order.count("long") == 20
    pool.close()


def test_what_nobody_waits_for_is_not_begun() -> None:
    pool = PassPool(1)
    gone = threading.Event()
    ran: list[int] = []

    def compute(part: Rows) -> None:
        ran.append(int(part[0]))
        if len(ran) == 3:
            gone.set()

    passes = rows(*range(10))
    assert pool.run(passes, costs(passes), compute, Limits(cancelled=gone.is_set)) == [0, 1, 2]
    assert ran == [0, 1, 2]
    past = Limits(deadline=time.perf_counter() - 1)
    assert pool.run(passes, costs(passes), compute, past) == []
    assert len(ran) == 3
    assert pool.run(passes, costs(passes), compute) == list(range(10)), "and others are served"
    pool.close()


def test_a_pass_that_would_end_too_late_is_not_begun() -> None:
    pool = PassPool(1)
    passes = rows(0)
    pool.run(passes, [1], lambda part: time.sleep(0.05))  # 50 ms a unit of cost, from now on
    soon = Limits(deadline=time.perf_counter() + 5)
    assert pool.run(passes, [1000], lambda part: None, soon) == []
    assert pool.run(passes, [1], lambda part: None, soon) == [0]
    pool.close()


def test_a_pass_that_was_slow_once_does_not_keep_all_later_ones_off() -> None:
    pool = PassPool(1)
    passes = rows(0)
    pool.run(passes, [1], lambda part: time.sleep(0.05))  # 50 ms a unit of cost, from now on

    def tried(deadline: float) -> list[int]:
        # At first it would probably take 50 s.
        return pool.run(passes, [1000], lambda part: None, Limits(time.perf_counter() + deadline))

    assert not any(tried(-1) for _ in range(200)), "which says nothing of how long a pass takes"
    assert not tried(5)
    assert any(tried(5) for _ in range(200))
    pool.close()


def test_an_error_ends_its_own_request_only() -> None:
    pool = PassPool(2)
    passes = rows(*range(100))
    ran: list[int] = []

    def fail(part: Rows) -> None:
        ran.append(int(part[0]))
        raise ValueError("pass 0 is bad")

    with pytest.raises(ValueError, match="pass 0 is bad"):
        pool.run(passes, costs(passes), fail)
    assert len(ran) < 10
    assert pool.run(passes, costs(passes), lambda part: None) == list(range(100))
    assert pool.waiting == 0
    pool.close()


def test_a_closed_pool_ends_its_threads() -> None:
    pool = PassPool(2)
    before = set(threading.enumerate())
    pool.run(rows(0), [1], lambda part: None)
    own = set(threading.enumerate()) - before
    assert len(own) == 2
    pool.close()
    for thread in own:
        thread.join(timeout=60)
        assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        pool.run(rows(0), [1], lambda part: None)


def settled(workers: int) -> PassPool:
    """A pool whose threads have nothing to do: new ones look for passes before they wait."""
    pool = PassPool(workers)
    pool.run(rows(0), [1], lambda part: None)
    while len(pool._changed._waiters) < workers:  # type: ignore[attr-defined]
        time.sleep(0.001)
    return pool


def test_a_caller_that_is_alone_takes_part() -> None:
    """With as many threads as there are workers, its own among them."""
    pool = settled(2)
    together = threading.Barrier(2, timeout=60)
    seen: set[threading.Thread] = set()

    def compute(part: Rows) -> None:
        seen.add(threading.current_thread())
        together.wait()

    passes = rows(*range(6))
    assert pool.run(passes, costs(passes), compute) == list(range(6))
    assert threading.current_thread() in seen
    assert len(seen) == 2
    pool.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_no_more_passes_at_a_time_than_workers(workers: int) -> None:
    pool = PassPool(workers)
    running, most = 0, 0
    lock = threading.Lock()

    def compute(part: Rows) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.0005)
        with lock:
            running -= 1

    def call() -> None:
        for _ in range(10):
            passes = rows(*range(7))
            assert pool.run(passes, costs(passes), compute) == list(range(7))

    callers = [threading.Thread(target=call) for _ in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
        assert not caller.is_alive()
    assert most == workers
    assert pool.waiting == 0
    pool.close()


def test_a_caller_that_takes_part_lets_others_have_their_turn() -> None:
    pool = settled(1)
    order: list[str] = []
    started, go = threading.Event(), threading.Event()
    threads: set[str] = set()

    def first(part: Rows) -> None:
        threads.add(threading.current_thread().name)
        started.set()
        go.wait()
        order.append("first")

    def caller(name: str, compute: Any) -> threading.Thread:
        passes = rows(*range(3))
        thread = threading.Thread(target=pool.run, args=(passes, costs(passes), compute), name=name)
        thread.start()
        return thread

    one = caller("one", first)
    started.wait()
    two = caller("two", lambda part: order.append("second"))
    while pool.waiting < 2 + 3:
        time.sleep(0.001)
    go.set()
    one.join(timeout=60)
    two.join(timeout=60)
    assert order == ["first", "first", "second", "first", "second", "second"]
    assert threads == {"one", "matcher"}, "it began in its own thread and gave up the core"
    pool.close()


def test_a_caller_that_is_gone_does_not_run_what_others_wait_for() -> None:
    pool = settled(1)
    started, go = threading.Event(), threading.Event()
    gone = threading.Event()
    threads: list[threading.Thread] = []

    def hold(part: Rows) -> None:
        started.set()
        go.wait()

    passes = rows(0, 1)
    first = threading.Thread(
        target=pool.run, args=(passes, costs(passes), hold, Limits(cancelled=gone.is_set))
    )
    first.start()
    started.wait()
    second = threading.Thread(
        target=pool.run,
        args=(rows(0), [1], lambda part: threads.append(threading.current_thread())),
    )
    second.start()
    while pool.waiting < 1 + 1:
        time.sleep(0.001)
    gone.set()
    go.set()
    first.join(timeout=60)
    second.join(timeout=60)
    assert not first.is_alive()
    assert [thread.name for thread in threads] == ["matcher"]
    pool.close()


def test_an_interrupt_is_its_own_caller_s_and_the_others_are_served() -> None:
    pool = settled(1)
    pool.shared = 1000
    started, go = threading.Event(), threading.Event()
    served: list[list[int]] = []
    raised: list[BaseException] = []

    def interrupted(parts: Any) -> None:
        raise KeyboardInterrupt

    def caller() -> None:
        def hold(part: Rows) -> None:
            started.set()
            go.wait()

        try:
            together = Together("", "first", interrupted)
            pool.run(rows(0, 1), [1, 1], hold, Limits(), together)
        except BaseException as error:
            raised.append(error)

    first = threading.Thread(target=caller)
    first.start()
    started.wait()
    second = threading.Thread(
        target=lambda: served.append(
            pool.run(rows(0), [1], lambda part: None, Limits(), Together("", "second", interrupted))
        )
    )
    second.start()
    while pool.waiting < 1 + 1:
        time.sleep(0.001)
    go.set()
    first.join(timeout=60)
    second.join(timeout=60)
    assert [type(error) for error in raised] == [KeyboardInterrupt]
    assert served == [[0]]
    pool.close()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_pool_that_is_closed_while_a_caller_takes_part_ends_all_its_threads(
    workers: int,
) -> None:
    pool = settled(workers)
    started, go = threading.Event(), threading.Event()

    def compute(part: Rows) -> None:
        started.set()
        go.wait()

    passes = rows(*range(12))
    caller = threading.Thread(target=pool.run, args=(passes, costs(passes), compute))
    caller.start()
    started.wait()
    pool.close()
    go.set()
    for thread in (caller, *pool._threads):
        thread.join(timeout=60)
        assert not thread.is_alive()


def padded(passes: list[Rows], lengths: NDArray[np.int32], extra: int) -> list[int]:
    return [len(part) * (int(lengths[part].max()) + extra) for part in passes]


def test_passes_keep_their_budget() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 200).astype(np.int32)
    passes = cut(lengths, 25, 512)
    assert sorted(np.concatenate(passes).tolist()) == list(range(200))
    assert max(padded(passes, lengths, 25)) <= 512
    waste = sum(padded(passes, lengths, 25)) / (lengths.sum() + 25 * 200)
    assert waste < 1.05, "rows of like length come together"
    assert [len(part) for part in passes] == sorted((len(part) for part in passes), reverse=True)


def test_a_row_that_is_too_long_is_alone() -> None:
    assert [part.tolist() for part in cut(np.array([9, 1, 90], dtype=np.int32), 1, 20)] == [
        [1, 0],
        [2],
    ]
    assert cut(np.empty(0, dtype=np.int32), 1, 20) == []


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_all_workers_end_at_about_the_same_time(workers: int) -> None:
    alike = np.full(64, 8, dtype=np.int32)
    sizes = [len(part) for part in cut(alike, 25, 512, workers=workers)]
    assert len(sizes) == {1: 5, 2: 6, 3: 6, 8: 8}[workers]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == 64
    mixed = np.random.default_rng(0).integers(5, 30, 300).astype(np.int32)
    passes = cut(mixed, 25, 512, workers=workers)
    assert sorted(np.concatenate(passes).tolist()) == list(range(300))
    assert max(padded(passes, mixed, 25)) <= 512
    assert [part.tolist() for part in cut(alike[:2], 25, 512, workers=workers)] == [[0, 1]]


def test_rows_alike_keep_the_budget_and_one_beyond_it_is_alone() -> None:
    for count in (1, 2, 7, 64, 300):
        for cost in (1, 9, 33, 300, 512):
            for workers in (1, 2, 8):
                alike = np.full(count, cost, dtype=np.int32)
                passes = cut(alike, 0, 512, workers=workers)
                assert np.concatenate(passes).tolist() == list(range(count))
                assert max(padded(passes, alike, 0)) <= 512
    long = np.full(3, 600, dtype=np.int32)
    assert [part.tolist() for part in cut(long, 0, 512, workers=2)] == [[0], [1], [2]]


def test_windows_keep_the_first_first() -> None:
    lengths = np.array([9, 3, 7, 5, 2, 8], dtype=np.int32)
    passes = cut(lengths, 1, 20, window=2)
    assert [part.tolist() for part in passes] == [[1, 0], [3, 2], [4, 5]]
    assert [part.tolist() for part in cut(lengths, 1, 1000, window=4)] == [[1, 3, 2, 0], [4, 5]]


class Board:
    """What several callers' passes were run as: the callers of each, in the order of the passes."""

    def __init__(self, pool: PassPool) -> None:
        self.pool = pool
        self.passes: list[list[str]] = []
        self._go = threading.Event()

    def caller(self, name: str, sizes: list[int], limits: Limits, key: str) -> threading.Thread:
        """One with passes of so many rows of ten tokens."""
        passes = [np.arange(size, dtype=np.int64) for size in sizes]
        together = Together(
            key, name, lambda parts: self.passes.append([part for part, _ in parts])
        )

        def alone(part: Rows) -> None:
            self.passes.append([name])

        return threading.Thread(
            target=self.pool.run,
            args=(passes, [10 * size for size in sizes], alone, limits, together),
            daemon=True,
        )

    def play(self, *callers: tuple[str, list[int], Limits, str]) -> list[list[str]]:
        """All of them wait, in this order, before the first is run."""
        busy = threading.Event()

        def hold(part: Rows) -> None:
            busy.set()
            self._go.wait()

        threads = [threading.Thread(target=self.pool.run, args=(rows(0), [1], hold), daemon=True)]
        threads[0].start()
        busy.wait()
        waiting = 0
        for caller in callers:
            threads.append(self.caller(*caller))
            threads[-1].start()
            waiting += len(caller[1])
            while self.pool.waiting < waiting:
                time.sleep(0.001)
        self._go.set()
        for thread in threads:
            thread.join()
        self.pool.close()
        return self.passes


def test_those_who_wait_share_a_pass_a_turn_of_each() -> None:
    found = Board(PassPool(1, shared=100)).play(
        ("long", [4, 4, 4], Limits(), ""),
        ("short", [3], Limits(), ""),
        ("other", [2], Limits(), ""),
    )
    assert found == [["long", "short", "other"], ["long"], ["long"]]


def test_a_shared_pass_has_room_for_so_many_tokens() -> None:
    found = Board(PassPool(1, shared=60)).play(
        ("a", [4, 4], Limits(), ""), ("b", [3], Limits(), ""), ("c", [2], Limits(), "")
    )
    assert found == [["a", "c"], ["b"], ["a"]], "who did not fit is next"


def test_what_is_of_another_table_is_not_shared() -> None:
    found = Board(PassPool(1, shared=1000)).play(
        ("a", [4], Limits(), "x"), ("b", [3], Limits(), "y"), ("c", [2], Limits(), "x")
    )
    assert found == [["a", "c"], ["b"]]


def test_on_a_processor_nothing_is_shared() -> None:
    found = Board(PassPool(1)).play(("a", [4], Limits(), ""), ("b", [3], Limits(), ""))
    assert found == [["a"], ["b"]]


def test_nobody_is_made_late_by_company() -> None:
    """A token takes a second, or so it seems: the three are in time only without each other."""
    pool = PassPool(1, shared=1000)
    board = Board(pool)
    pool._seconds_per_cost = 1.0
    soon = Limits(deadline=time.perf_counter() + 45)
    found = board.play(
        ("a", [4], soon, ""), ("b", [4], Limits(), ""), ("gone", [4], Limits(0.0), "")
    )
    assert found == [["a"], ["b"]]
