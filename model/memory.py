"""What a pass does that does not fit into memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import OutOfMemoryError

#: How ONNX Runtime's allocators, the C++ library and CUDA with its libraries say it.
_SIGNS = (
    "failed to allocate memory",
    "bad_alloc",
    "out of memory",
    "smaller than requested bytes",
    "status_alloc_failed",
)


def halving(compute: Callable[[NDArray[np.int64]], Any]) -> Callable[[NDArray[np.int64]], None]:
    """A pass that is run as two halves where it does not fit, once.

    Raises:
        OutOfMemoryError: a half does not fit either.
    """

    def run(rows: NDArray[np.int64]) -> None:
        try:
            compute(rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            return
        middle = -(-len(rows) // 2)
        try:
            for half in (rows[:middle], rows[middle:]):
                if len(half):
                    compute(half)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"a pass over {middle} rows does not fit into the memory that is left: give the "
                "service more of it, or fewer workers"
            ) from error

    return run


def is_out_of_memory(error: Exception) -> bool:
    """Whether that is what an error of ONNX Runtime or of Python says."""
    told = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in told for sign in _SIGNS)


class MemoryWatch:
    """Whether some work keeps failing for want of memory.

    Args:
        seconds: a failure that is longer ago counts no more, so that one may try again.
    """

    def __init__(self, seconds: float = 30.0) -> None:
        self._seconds = seconds
        self._failed: dict[str, list[float]] = {}  # when, by graph, since it last fitted

    @property
    def exhausted(self) -> bool:
        """A graph failed twice or more in a row, and not long ago."""
        now = time.monotonic()
        return any(
            len(times) > 1 and now - times[-1] < self._seconds
            for times in list(self._failed.values())
        )

    @contextmanager
    def watching(self, graph: str) -> Iterator[Callable[[], None]]:
        """Count how a `with` block that runs a graph ends.

        The block calls what it is given once a pass has fitted: a block that ran no pass, as its
        time was up, says nothing of the memory.
        """
        fitted = False

        def fits() -> None:
            nonlocal fitted
            fitted = True

        try:
            yield fits
        except OutOfMemoryError:
            self._failed[graph] = [*self._failed.get(graph, [])[-1:], time.monotonic()]
            raise
        if fitted:
            self._failed.pop(graph, None)
