from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from model.shares import Shares


def test_as_many_as_fit_are_served_at_once() -> None:
    shares = Shares(10)
    taken = threading.Event()

    def take(share: int) -> None:
        with shares.take(share):
            taken.set()

    with ThreadPoolExecutor(1) as threads, ExitStack() as held:
        held.enter_context(shares.take(4))
        held.enter_context(shares.take(3))
        threads.submit(take, 3).result(timeout=30)
        taken.clear()
        waiting = threads.submit(take, 4)
        assert not taken.wait(0.1)
        held.close()
        waiting.result(timeout=30)


def test_more_than_all_is_all() -> None:
    shares = Shares(10)
    taken = threading.Event()

    def take(share: int) -> None:
        with shares.take(share):
            taken.set()

    with ThreadPoolExecutor(1) as threads:
        for _ in range(2):  # what was taken is given back
            taken.clear()
            with shares.take(100):
                waiting = threads.submit(take, 1)
                assert not taken.wait(0.1)
            waiting.result(timeout=30)


def test_who_needs_much_is_not_passed_by() -> None:
    shares = Shares(10)
    order: list[int] = []

    def take(share: int) -> None:
        with shares.take(share):
            order.append(share)

    with (
        ThreadPoolExecutor(2) as threads,
        shares.take(5),
    ):  # given back before threads are waited for
        for waiting, share in enumerate((10, 1), start=1):
            threads.submit(take, share)
            while len(shares._waiting) < waiting:
                time.sleep(0.001)
        assert order == []
    assert order == [10, 1]


def test_a_wait_that_is_broken_off_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = Shares(10)

    def broken(condition: threading.Condition, predicate: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(threading.Condition, "wait_for", broken)
        with pytest.raises(KeyboardInterrupt), shares.take(1):
            pass
    with shares.take(10):
        pass
