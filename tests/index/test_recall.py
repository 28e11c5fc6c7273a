from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from index.recall import RecallIndex, lists_and_sample, write_index
from index.recall_rules import Rule
from model.errors import SnapshotError

SIZE = 32
COUNT = 10_000


def _clustered(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Unit vectors around 200 centres, as products lie around kinds of product."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((200, SIZE))
    vectors = centres[rng.integers(0, 200, count)] + 0.7 * rng.standard_normal((count, SIZE))
    unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(
        np.float32
    )
    return unit


def _index(folder: Path, vectors: NDArray[np.float32], rule: Rule) -> RecallIndex:
    write_index(vectors, rule, folder / f"{rule}.faiss")
    return RecallIndex(folder / f"{rule}.faiss", vectors, rule)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recall")


@pytest.fixture(scope="module")
def indexes(folder: Path) -> dict[Rule, RecallIndex]:
    vectors = _clustered(COUNT)
    rules: tuple[Rule, ...] = ("exact", "hnsw", "ivfpq")
    return {rule: _index(folder, vectors, rule) for rule in rules}


@pytest.mark.parametrize("k", [10, 1000, 5000, COUNT])
@pytest.mark.parametrize("rule", ["hnsw", "ivfpq"])
def test_as_many_rows_as_asked_for(rule: Rule, k: int, indexes: dict[Rule, RecallIndex]) -> None:
    index = indexes[rule]
    for query in _clustered(2, seed=5):
        rows, similarities = index.search(query, k)
        assert len(set(rows.tolist())) == k
        assert (np.diff(similarities) <= 0).all()
        nearest, _ = indexes["exact"].search(query, k)
        assert len(np.intersect1d(rows, nearest)) >= 0.8 * k


@pytest.mark.parametrize("rule", ["exact", "ivfpq"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_equal_ones_come_in_the_catalogues_order(tmp_path: Path, rule: Rule, share: float) -> None:
    """A smaller k is the beginning of a larger one's answer: one picture of many products."""
    vectors = _clustered(10_000)
    vectors[100:160] = vectors[100]
    index = _index(tmp_path, vectors, rule)
    among = np.random.default_rng(1).random(len(vectors)) < share
    rows, similarities = index.search(vectors[100], 80, among=among)
    twins = np.flatnonzero(among[100:160]) + 100
    assert rows[: len(twins)].tolist() == twins.tolist()
    assert len(np.unique(similarities[: len(twins)])) == 1
    for k in (1, 2, 7, 20, 61):
        fewer, _ = index.search(vectors[100], k, among=among)
        assert fewer.tolist() == rows[:k].tolist()


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (10_000, (256, 10_000)),
        (200_000, (1789, 114_496)),
        (1_000_000, (4000, 256_000)),
        (10_000_000, (6721, 262_144)),
        (1_000_000_000, (6721, 262_144)),
    ],
)
def test_what_ivfpq_is_learnt_from_does_not_grow_for_ever(
    count: int, expected: tuple[int, int]
) -> None:
    lists, sample = lists_and_sample(count)
    assert (lists, sample) == expected
    assert sample >= 39 * lists  # of fewer FAISS warns


def test_exact_search_is_what_numpy_finds(indexes: dict[Rule, RecallIndex]) -> None:
    index = indexes["exact"]
    for query in _clustered(20, seed=1):
        similarities = index.embeddings @ query
        rows, found = index.search(query, 100)
        np.testing.assert_array_equal(rows, np.argsort(-similarities, kind="stable")[:100])
        np.testing.assert_allclose(found, similarities[rows], atol=1e-6)


@pytest.mark.parametrize(("rule", "least"), [("hnsw", 0.97), ("ivfpq", 0.8)])
def test_approximate_search_finds_most_of_what_exact_search_does(
    indexes: dict[Rule, RecallIndex], rule: Rule, least: float
) -> None:
    shared = 0
    for query in _clustered(50, seed=1):
        exact, _ = indexes["exact"].search(query, 100)
        rows, similarities = indexes[rule].search(query, 100)
        assert len(set(rows.tolist())) == len(rows) == 100
        assert (np.diff(similarities) <= 1e-6).all()
        # Similarities are true ones, also where the index holds the vectors compressed.
        np.testing.assert_allclose(similarities, indexes[rule].embeddings[rows] @ query, atol=1e-5)
        shared += len(set(exact.tolist()) & set(rows.tolist()))
    assert shared / 5000 > least


def test_ivfpq_looks_at_a_part_of_the_rows(indexes: dict[Rule, RecallIndex]) -> None:
    done = faiss.cvar.indexIVF_stats
    done.reset()
    for query in _clustered(20, seed=1):
        indexes["ivfpq"].search(query, 20)
    assert (done.nq, done.ndis > 0) == (20, True)
    assert done.ndis < 20 * COUNT / 5


@pytest.mark.parametrize("rule", ["exact", "hnsw", "ivfpq"])
def test_a_filtered_search_is_exact_however_narrow(
    indexes: dict[Rule, RecallIndex], rule: Rule
) -> None:
    index = indexes[rule]
    query = _clustered(1, seed=2)[0]
    for share in (0.5, 0.001):
        among = np.random.default_rng(4).random(len(index)) < share
        allowed = np.flatnonzero(among)
        rows, similarities = index.search(query, 10, among=among)
        best = allowed[np.argsort(-(index.embeddings[allowed] @ query), kind="stable")[:10]]
        np.testing.assert_array_equal(rows, best)
        np.testing.assert_allclose(similarities, index.embeddings[best] @ query, atol=1e-6)
    rows, similarities = index.search(query, 10, among=np.zeros(len(index), dtype=np.bool_))
    assert len(rows) == len(similarities) == 0


def test_filters_lose_nothing_among_100_000(tmp_path: Path) -> None:
    vectors = np.ascontiguousarray(np.tile(_clustered(100_000, seed=6), 2))  # 64 values each
    vectors[:, SIZE:] = np.roll(vectors[:, SIZE:], 1, axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = _index(tmp_path, vectors, "exact")
    for share in (0.1, 0.01, 0.001):
        among = np.random.default_rng(3).random(len(vectors)) < share
        allowed = np.flatnonzero(among)
        for query in vectors[::9973]:
            rows, _ = index.search(query, 64, among=among)
            best = allowed[np.argsort(-(vectors[allowed] @ query), kind="stable")[:64]]
            assert len(np.intersect1d(rows, best)) >= 0.99 * len(best)
            assert len(rows) == min(64, len(allowed))


@pytest.mark.parametrize("rule", ["exact", "hnsw"])
def test_a_filter_goes_into_the_search(
    folder: Path,
    indexes: dict[Rule, RecallIndex],
    monkeypatch: pytest.MonkeyPatch,
    rule: Rule,
) -> None:
    """Were it applied to what a search has found, too few would be left, and all be compared."""
    index = RecallIndex(folder / f"{rule}.faiss", indexes[rule].embeddings, rule, compare_up_to=0)
    monkeypatch.setattr(index, "_compare", None)
    among = np.random.default_rng(4).random(len(index)) < 0.9
    for query in _clustered(20, seed=1):
        rows, _ = index.search(query, 50, among=among)
        assert len(rows) == 50
        assert among[rows].all()


def test_few_rows_that_pass_a_filter_are_all_compared(
    folder: Path, indexes: dict[Rule, RecallIndex]
) -> None:
    """So the answer is exact; one row more than few go through the index."""
    built = indexes["ivfpq"]
    among = np.random.default_rng(4).random(len(built)) < 0.5
    allowed = np.flatnonzero(among)
    done = faiss.cvar.indexIVF_stats
    for few, asked in ((len(allowed), 0), (len(allowed) - 1, 20)):
        index = RecallIndex(folder / "ivfpq.faiss", built.embeddings, "ivfpq", compare_up_to=few)
        done.reset()
        for query in _clustered(20, seed=3):
            rows, _ = index.search(query, 50, among=among)
            if not asked:
                best = np.argsort(-(built.embeddings[allowed] @ query), kind="stable")[:50]
                np.testing.assert_array_equal(rows, allowed[best])
        assert done.nq == asked


@pytest.mark.parametrize(("rule", "share", "least"), [("hnsw", 0.95, 0.97), ("ivfpq", 0.3, 0.8)])
def test_a_broad_filter_goes_through_an_approximate_index(
    folder: Path, indexes: dict[Rule, RecallIndex], rule: Rule, share: float, least: float
) -> None:
    built = indexes[rule]
    index = RecallIndex(folder / f"{rule}.faiss", built.embeddings, rule, compare_up_to=0)
    among = np.random.default_rng(4).random(len(index)) < share
    allowed = np.flatnonzero(among)
    shared = 0
    done = faiss.cvar.hnsw_stats if rule == "hnsw" else faiss.cvar.indexIVF_stats
    done.reset()
    for query in _clustered(30, seed=1):
        rows, similarities = index.search(query, 20, among=among)
        assert among[rows].all()
        assert len(set(rows.tolist())) == len(rows) == 20
        np.testing.assert_allclose(similarities, index.embeddings[rows] @ query, atol=1e-5)
        best = allowed[np.argsort(-(index.embeddings[allowed] @ query), kind="stable")[:20]]
        shared += len(np.intersect1d(rows, best))
    assert shared / 600 > least
    assert (done.n1 if rule == "hnsw" else done.nq) == 30


@pytest.mark.parametrize("rule", ["exact", "hnsw"])
def test_more_rows_than_there_are(tmp_path: Path, rule: Rule) -> None:
    index = _index(tmp_path, _clustered(7), rule)
    rows, _ = index.search(_clustered(1, seed=1)[0], 50)
    assert sorted(rows.tolist()) == list(range(7))
    one = _index(tmp_path, _clustered(1), rule)
    assert one.search(_clustered(1, seed=1)[0], 3)[0].tolist() == [0]


def test_a_query_of_another_size_and_no_rows_are_a_callers_mistake(
    indexes: dict[Rule, RecallIndex],
) -> None:
    with pytest.raises(ValueError, match="a query of"):
        indexes["exact"].search(np.zeros(SIZE + 1, dtype=np.float32), 3)
    with pytest.raises(ValueError, match="for 0 rows"):
        indexes["exact"].search(np.zeros(SIZE, dtype=np.float32), 0)


def test_threads_get_what_one_caller_gets(indexes: dict[Rule, RecallIndex]) -> None:
    queries = list(_clustered(64, seed=5))
    among = np.arange(COUNT) % 3 == 0
    for index in indexes.values():
        alone = [index.search(query, 10, among=among)[0].tolist() for query in queries]
        with ThreadPoolExecutor(8) as threads:
            together = threads.map(lambda q: index.search(q, 10, among=among)[0].tolist(), queries)  # noqa: B023
            assert list(together) == alone


def test_the_exact_index_is_the_same_file_each_time(tmp_path: Path) -> None:
    vectors = _clustered(500)
    write_index(vectors, "exact", tmp_path / "a")
    write_index(vectors, "exact", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_stored_embeddings_find_themselves(indexes: dict[Rule, RecallIndex]) -> None:
    rows = np.array([0, 500, COUNT - 1])
    for index in indexes.values():
        assert index.check(rows)


def test_an_index_of_other_vectors_fails_the_check(
    folder: Path, indexes: dict[Rule, RecallIndex]
) -> None:
    others = _clustered(COUNT, seed=8)
    for rule in indexes:
        mismatched = RecallIndex(folder / f"{rule}.faiss", others, rule)
        assert not mismatched.check(np.arange(0, COUNT, 500))


def test_a_file_that_is_no_index_or_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk" * 100)
    with pytest.raises(SnapshotError, match="no index that FAISS"):
        RecallIndex(tmp_path / "junk", _clustered(5), "exact")
    with pytest.raises(SnapshotError, match="no index that FAISS"):
        RecallIndex(tmp_path / "missing", _clustered(5), "exact")
    write_index(_clustered(6), "exact", tmp_path / "six")
    with pytest.raises(SnapshotError, match="holds 6 vectors of 32, the snapshot has 5 of 32"):
        RecallIndex(tmp_path / "six", _clustered(5), "exact")
    whole = (tmp_path / "six").read_bytes()
    (tmp_path / "six").write_bytes(whole[:-20])
    with pytest.raises(SnapshotError, match="no index that FAISS"):
        RecallIndex(tmp_path / "six", _clustered(6), "exact")


@pytest.mark.parametrize("count", [3, 1000])
def test_a_disk_that_is_full_when_the_last_bytes_are_written(tmp_path: Path, count: int) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_index(_clustered(count), "exact", tmp_path / "full")
