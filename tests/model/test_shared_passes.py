"""Passes that several callers share."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from model.cuts import Rows
from model.passes import Limits, PassPool, Together


class Board:
    """What several callers' passes were run as: the callers of each, in the order of the passes."""

    def __init__(self, pool: PassPool) -> None:
        self.pool = pool
        self.passes: list[list[str]] = []
        self._go = threading.Event()

    def caller(
        self, name: str, sizes: list[int], limits: Limits, key: str, width: int = 10
    ) -> threading.Thread:
        """One with passes of so many rows of so many tokens."""
        passes = [np.arange(size, dtype=np.int64) for size in sizes]
        together = Together(
            key, name, lambda parts: self.passes.append([part for part, _ in parts])
        )

        def alone(part: Rows) -> None:
            self.passes.append([name])

        return threading.Thread(
            target=self.pool.run,
            args=(passes, [width * size for size in sizes], alone, limits, together),
            daemon=True,
        )

    def play(self, *callers: tuple[Any, ...]) -> list[list[str]]:
        """All of them wait, in this order, before the first is run."""
        busy = threading.Event()

        def hold(part: Rows) -> None:
            busy.set()
            self._go.wait()

        threads = [
            threading.Thread(
                target=self.pool.run, args=([np.zeros(1, dtype=np.int64)], [1], hold), daemon=True
            )
        ]
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


def test_padding_to_the_longest_counts() -> None:
    found = Board(PassPool(1, shared=120)).play(
        ("narrow", [4], Limits(), ""),
        ("wide", [3], Limits(), "", 20),  # 100 tokens by themselves, 140 of one width
        ("narrow too", [4], Limits(), ""),
    )
    assert found == [["narrow", "narrow too"], ["wide"]]


def test_what_is_of_another_table_is_not_shared() -> None:
    found = Board(PassPool(1, shared=1000)).play(
        ("a", [4], Limits(), "x"), ("b", [3], Limits(), "y"), ("c", [2], Limits(), "x")
    )
    assert found == [["a", "c"], ["b"]]


def test_on_a_processor_nothing_is_shared() -> None:
    found = Board(PassPool(1)).play(("a", [4], Limits(), ""), ("b", [3], Limits(), ""))
    assert found == [["a"], ["b"]]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> PassPool:
    """One where a token takes a second, or so it seems, however long the passes wait here."""
    pool = PassPool(1, shared=1000)
    pool._seconds_per_token = 1.0
    monkeypatch.setattr(pool, "_measure", lambda seconds: None)
    return pool


def test_nobody_is_made_late_by_company(slow: PassPool) -> None:
    """The three are in time only without each other."""
    soon = Limits(deadline=time.perf_counter() + 60)
    found = Board(slow).play(
        ("a", [4], soon, ""), ("b", [4], Limits(), ""), ("gone", [4], Limits(0.0), "")
    )
    assert found == [["a"], ["b"]]


def test_nobody_is_made_late_by_who_comes_after_them(slow: PassPool) -> None:
    soon = Limits(deadline=time.perf_counter() + 60)
    found = Board(slow).play(
        ("a", [2], Limits(), ""), ("soon", [2], soon, ""), ("long", [4], Limits(), "")
    )
    assert found == [["a", "soon"], ["long"]]
