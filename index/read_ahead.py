"""Rows of a mapped array that are about to be read, fetched from the disk all at once.

A page that is not in memory is read when it is touched, with what lies around it, and what touches
it waits: for one row after the other. A catalogue larger than the memory, or one just published,
has such rows in every search.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_ahead(
    array: NDArray[Any], rows: NDArray[np.int64], counts: NDArray[np.int64] | int = 1
) -> None:
    """Ask the kernel for rows of an array; does not wait for them.

    Rows that are in memory cost two or three microseconds each.

    Args:
        array: of `index.states.open_array`; another one is in memory, and nothing is done.
        rows: [n], the first of each run of rows, within the array.
        counts: rows in each run, [n] or alike for all.
    """
    mapping = _mapping(array)
    if mapping is None:
        return
    row_bytes = array.nbytes // max(1, len(array))
    starts = len(mapping) - array.nbytes + rows * row_bytes
    ends = starts + counts * row_bytes
    starts -= starts % mmap.PAGESIZE
    with contextlib.suppress(OSError):  # who reads the rows is told what is wrong
        for start, length in zip(starts.tolist(), (ends - starts).tolist(), strict=True):
            mapping.madvise(mmap.MADV_WILLNEED, start, length)


def _mapping(array: NDArray[Any]) -> mmap.mmap | None:
    """What a whole array is a view of, at its end."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
