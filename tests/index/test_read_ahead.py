from __future__ import annotations

import ctypes
import mmap
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from index.read_ahead import read_ahead
from index.recall import RecallIndex, write_index
from index.states import ImageStates, TextStates, open_array

ROW_BYTES = 8 * mmap.PAGESIZE
ROWS = 1000


def _mapping(array: NDArray[Any]) -> mmap.mmap:
    mapping = array.base
    while isinstance(mapping, np.ndarray):
        mapping = mapping.base
    assert isinstance(mapping, mmap.mmap)
    return mapping


def _resident(array: NDArray[Any]) -> set[int]:
    """The pages of a mapped array that are in memory, counted from its file's begin."""
    mapping = _mapping(array)
    start = array.ctypes.data - (len(mapping) - array.nbytes)
    seen = (ctypes.c_ubyte * -(-len(mapping) // mmap.PAGESIZE))()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(mapping)), seen) == 0
    return {page for page, one in enumerate(seen) if one & 1}


def _pages(rows: range) -> set[int]:
    """The pages of some rows of `ROW_BYTES`, which the file's header shifts."""
    head = 128
    return set(
        range(
            (head + rows.start * ROW_BYTES) // mmap.PAGESIZE,
            -(-(head + rows.stop * ROW_BYTES) // mmap.PAGESIZE),
        )
    )


def _cold(path: Path, rows: NDArray[Any] | None = None) -> NDArray[Any]:
    """A mapped array of which nothing is in memory, and no page comes with another one."""
    rows = np.ones((ROWS, ROW_BYTES), dtype=np.int8) if rows is None else rows
    np.save(path, rows)
    array = open_array(path, rows.dtype, rows.shape)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    _mapping(array).madvise(mmap.MADV_RANDOM)
    if _resident(array):
        pytest.skip(f"{path} lies where nothing leaves the memory")
    return array


def _wait_for(met: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not met() and time.monotonic() < deadline:
        time.sleep(0.01)
    return met()


def test_rows_that_were_asked_for_come_into_memory_untouched(tmp_path: Path) -> None:
    array = _cold(tmp_path / "a.npy")
    read_ahead(array, np.array([900, 100, 999]))
    wanted = set().union(*(_pages(range(row, row + 1)) for row in (900, 100, 999)))
    assert _wait_for(lambda: wanted <= _resident(array))
    assert len(_resident(array)) < 2 * len(wanted)


def test_runs_of_rows_come_whole(tmp_path: Path) -> None:
    array = _cold(tmp_path / "a.npy")
    read_ahead(array, np.array([10, 500]), np.array([3, 5]))
    wanted = _pages(range(10, 13)) | _pages(range(500, 505))
    assert _wait_for(lambda: wanted <= _resident(array))


def _waits(work: Callable[[], object]) -> int:
    """How many times the work stood still until the disk gave a page that nobody had asked for."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_majflt
    work()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt - before


def test_pictures_states_are_read_all_at_once(tmp_path: Path) -> None:
    values = _cold(tmp_path / "values.npy", np.ones((ROWS, 16, 512), dtype=np.int8))
    stored = ImageStates(values, np.ones((ROWS, 16), dtype=np.float32))
    assert _waits(lambda: stored.gather(range(0, ROWS, 50))) < 5
    assert _waits(lambda: values[10::50].sum()) > 20  # as it was not asked


def test_texts_states_are_read_all_at_once(tmp_path: Path) -> None:
    values = _cold(tmp_path / "values.npy", np.ones((ROWS, 4096), dtype=np.int8))
    stored = TextStates(values, np.ones(ROWS, dtype=np.float32), np.arange(0, ROWS + 1, 4))
    assert _waits(lambda: stored.gather(range(0, len(stored), 20))) < 5


def test_vectors_that_are_compared_after_ivfpq_are_read_all_at_once(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((10_000, 64), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write_index(vectors, "ivfpq", tmp_path / "a.faiss")
    index = RecallIndex(tmp_path / "a.faiss", _cold(tmp_path / "a.npy", vectors), "ivfpq")
    assert _waits(lambda: index.search(vectors[7], 10)) < 5


def test_nothing_to_ask_for() -> None:
    read_ahead(np.ones((4, 4)), np.array([2]))  # no file
    read_ahead(np.empty((0, 4)), np.array([], dtype=np.int64))


def test_no_rows_of_a_file(tmp_path: Path) -> None:
    array = _cold(tmp_path / "a.npy")
    read_ahead(array, np.array([], dtype=np.int64))
    assert not _resident(array)
