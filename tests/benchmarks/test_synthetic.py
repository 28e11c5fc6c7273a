"""Synthetic catalogues are real snapshots."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import synthetic
from benchmarks.parts.recall import nearest
from benchmarks.parts.start import resident
from index.snapshot import Snapshot
from model.bundle import Bundle
from model.engine import Engine
from service.search import Searcher


def test_a_snapshot_is_whole_and_can_be_searched(
    tmp_path: Path, bundle: Bundle, engine: Engine
) -> None:
    root = synthetic.snapshot(tmp_path, bundle, 300, text_tokens=5)
    snapshot = Snapshot.open(root, model_id=bundle.model_id, verify=True)
    assert len(snapshot) == 300
    result = Searcher(engine, snapshot).search_text("red dress", k=5, candidates=64)
    assert result.pairs == 64
    assert result.degraded is None
    assert len({hit.item.id for hit in result.hits}) == 5
    assert snapshot.ids[7] == synthetic.product_id(7)
    assert synthetic.snapshot(tmp_path, bundle, 300, text_tokens=5) == root  # and not made again


def test_more_vectors_begin_with_fewer(tmp_path: Path) -> None:
    few = synthetic.vectors(tmp_path, 500, 32)
    many = synthetic.vectors(tmp_path, 70_000, 32)
    np.testing.assert_allclose(few, many[:500], atol=1e-6)  # matrices of other sizes round
    np.testing.assert_allclose(np.linalg.norm(many[::1000], axis=1), 1, rtol=1e-5)


def test_vectors_lie_as_real_ones_do(tmp_path: Path) -> None:
    stored = synthetic.vectors(tmp_path, 1001, 256)
    cosines = stored @ stored.T
    np.fill_diagonal(cosines, -1)
    cosines.sort(axis=1)
    first, tenth, last = np.median(cosines[:, [-1, -10, -64]], axis=0)
    # What was measured of a trained model: 0.90, 0.72 and 0.47.
    assert 0.87 < first < 0.93
    assert 0.68 < tenth < 0.77
    assert 0.43 < last < 0.52
    queries = synthetic.queries(tmp_path, 1001, 256, 200)
    assert 0.80 < np.median((queries @ stored.T).max(axis=1)) < 0.88  # 0.84


def test_nearest_are_those_of_a_full_sort(tmp_path: Path) -> None:
    stored = synthetic.vectors(tmp_path, 3000, 16)
    queries = synthetic.queries(tmp_path, 3000, 16, 9)
    wanted = np.argsort(-(queries @ stored.T), axis=1)[:, :20]
    found = nearest(stored, queries, 20)
    assert [set(row) for row in found.tolist()] == [set(row) for row in wanted.tolist()]


def test_resident_memory_is_told_apart_by_file(tmp_path: Path) -> None:
    import mmap
    import os

    path = tmp_path / "states.bin"
    path.write_bytes(os.urandom(32 << 20))
    before = resident(os.getpid(), tmp_path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[::4096]) > 0
        after = resident(os.getpid(), tmp_path)
    assert before["snapshot"] == 0
    assert 33 < after["snapshot"] < 34  # MB: 32 MiB
    status = Path("/proc/self/status").read_text(encoding="ascii")
    total = int(status.partition("VmRSS:")[2].split()[0]) * 1.024 / 1000
    assert abs(after["beyond_snapshot"] - total) < 60
