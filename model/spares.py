"""Memory that is used again, by whichever thread needs some next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Spares(Generic[T]):
    """Things that are lent to one user at a time: as many as were ever lent at once.

    Not one a thread: passes run in their callers' threads too, and those are many. What came back
    last, and is in cache still, is lent first. Safe to use from several threads.

    Args:
        make: one more.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._spare: deque[T] = deque()  # whose ends are safe from several threads

    @contextmanager
    def one(self) -> Iterator[T]:
        """Lend one for a `with` block."""
        try:
            thing = self._spare.pop()
        except IndexError:
            thing = self._make()
        try:
            yield thing
        finally:
            self._spare.append(thing)
