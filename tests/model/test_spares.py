from __future__ import annotations

import threading

import pytest

from model.spares import Spares


def test_what_came_back_is_lent_again() -> None:
    made: list[list[int]] = []

    def make() -> list[int]:
        made.append([])
        return made[-1]

    spares = Spares(make)
    with spares.one() as first, spares.one() as second:
        assert first is not second
        second.append(2)
    with spares.one() as again:
        assert again is first, "the one that came back last, which may be in cache still"
    assert len(made) == 2


def test_it_comes_back_after_an_error_too() -> None:
    spares = Spares(list[int])
    with pytest.raises(ValueError, match="bad"), spares.one() as first:
        raise ValueError("bad")
    with spares.one() as again:
        assert again is first


def test_no_two_threads_have_the_same() -> None:
    spares = Spares(threading.Lock)

    def use() -> None:
        for _ in range(2000):
            with spares.one() as lock:
                taken.append(lock.acquire(blocking=False))
                lock.release()

    taken: list[bool] = []
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 8000
    assert all(taken)
