"""Rows cut into passes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model.cuts import Rows, cut


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
    assert len(passes) == {1: 27, 2: 28, 3: 27, 8: 32}[workers]
    tokens = [int((mixed[part] + 25).sum()) for part in passes]
    assert min(tokens) > 0.8 * max(tokens)
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
