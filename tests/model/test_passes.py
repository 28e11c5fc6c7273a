from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from model.cuts import Rows
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


@pytest.mark.parametrize("how", ["gone", "failed"])
def test_passes_that_are_under_way_are_waited_for(how: str) -> None:
    """Also where no more are begun: they write to what the caller has."""
    pool = settled(2)
    together = threading.Barrier(2, timeout=60)
    gone = threading.Event()
    ended: list[int] = []

    def compute(part: Rows) -> None:
        together.wait()
        if threading.current_thread() is threading.main_thread():
            gone.set()
            if how == "failed":
                raise ValueError("the first is bad")
        else:
            gone.wait()
            time.sleep(0.1)
        ended.append(int(part[0]))

    passes = rows(*range(6))
    if how == "failed":
        with pytest.raises(ValueError, match="the first is bad"):
            pool.run(passes, costs(passes), compute)
        assert len(ended) == 1
    else:
        assert pool.run(passes, costs(passes), compute, Limits(cancelled=gone.is_set)) == [0, 1]
        assert sorted(ended) == [0, 1]
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
