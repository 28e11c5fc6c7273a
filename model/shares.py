"""A quantity that threads share: each takes some of it, and waits for its turn if none is left."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Shares:
    """So much of something, such as memory, as may be in use at once in a process.

    Who comes first is served first: who needs much is not passed by all who need little. Safe to
    use from several threads, and not to be taken twice by one.

    Args:
        total: of which shares are taken.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._left = total
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def take(self, share: int) -> Iterator[None]:
        """Hold a share for a `with` block; one larger than the total is all of it."""
        share = min(share, self._total)
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is turn and self._left >= share)
                self._left -= share
            finally:  # also where a wait is broken off
                self._waiting.remove(turn)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._left += share
                self._changed.notify_all()
