"""What of FAISS on a GPU can be told without one; tests/gpu has the rest."""

from __future__ import annotations

import logging
from pathlib import Path

import faiss
import numpy as np
import pytest

from index.live_index import LiveIndex
from index.recall import RecallIndex, write_index
from index.recall_device import (
    MOST_ROWS,
    GpuRecall,
    check_device,
    needs_half_tables,
    to_gpu,
)
from index.recall_rules import Rule
from model.errors import FashionBertError

HAS_GPU = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


def test_a_faiss_without_gpu_says_what_to_install(root: Path, tmp_path: Path) -> None:
    check_device("cpu")
    with pytest.raises(FashionBertError, match="recall device 'tpu': choose 'cpu' or 'cuda'"):
        check_device("tpu")
    if HAS_GPU:
        check_device("cuda")
        return
    vectors = np.eye(4, dtype=np.float32)
    write_index(vectors, "exact", tmp_path / "image.faiss")
    with pytest.raises(FashionBertError, match=r"which has faiss-gpu|FAISS sees no GPU"):
        RecallIndex(tmp_path / "image.faiss", vectors, "exact", device="cuda")
    with pytest.raises(FashionBertError, match="FASHIONBERT_RECALL_DEVICE"):
        LiveIndex.open(root, recall_device="cuda")


def test_hnsw_stays_on_the_processor_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = faiss.IndexHNSWFlat(8, 4, faiss.METRIC_INNER_PRODUCT)
    with caplog.at_level(logging.WARNING):
        assert to_gpu(index, "hnsw", tmp_path / "image.faiss") is None
    (record,) = caplog.records
    assert "image.faiss is searched on the processor" in record.getMessage()
    assert "no HNSW for GPUs" in record.getMessage()


def test_more_lists_than_a_gpu_reads_stay_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(8), 8, 5000, 2, 8, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = MOST_ROWS + 1
    with caplog.at_level(logging.WARNING):
        assert to_gpu(index, "ivfpq", tmp_path / "text.faiss") is None
    assert "2,049 lists a search" in caplog.records[0].getMessage()


@pytest.mark.parametrize(("parts", "half"), [(48, False), (49, True), (64, True)])
def test_lookup_tables_of_16_bits_only_where_others_do_not_fit(parts: int, half: bool) -> None:
    size = 4 * parts
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(size), size, 4, parts, 8, faiss.METRIC_INNER_PRODUCT)
    assert needs_half_tables(index) is half
    assert not needs_half_tables(faiss.IndexFlatIP(size))


class Counted(GpuRecall):
    """How many searches came here, to a copy that is not on a GPU."""

    searches = 0

    def search(self, vectors: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
        self.searches += 1
        return super().search(vectors, rows)


@pytest.mark.parametrize("rule", ["exact", "ivfpq"])
def test_only_what_a_gpu_can_answer_goes_there(rule: Rule, tmp_path: Path) -> None:
    """A filter would be ignored there without a word, and more rows refused."""
    vectors = np.random.default_rng(0).standard_normal((10_000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    file = tmp_path / "image.faiss"
    write_index(vectors, rule, file)
    plain, index = (RecallIndex(file, vectors, rule, compare_up_to=0) for _ in range(2))
    copy = Counted(faiss.clone_index(index._index))
    index._gpu = copy
    overfetch = 6 if rule == "ivfpq" else 1
    some = np.random.default_rng(1).random(len(vectors)) < 0.5
    everything = np.ones(len(vectors), dtype=np.bool_)
    written = everything.copy()
    written[plain.search(vectors[7], 5)[0]] = False  # the nearest, as if they had been replaced
    many = everything.copy()
    many[:MOST_ROWS] = False
    for k, among, there in (
        (10, None, True),
        (10, everything, True),
        (MOST_ROWS // overfetch, None, True),
        (MOST_ROWS // overfetch + 1, None, False),
        (10, written, True),
        (MOST_ROWS // overfetch, written, False),
        (10, many, False),
        (10, some, False),
    ):
        before = copy.searches
        rows, similarities = index.search(vectors[7], k, among=among)
        assert copy.searches - before == there
        wanted = plain.search(vectors[7], k, among=among)
        if rule == "exact":
            np.testing.assert_array_equal(rows, wanted[0])
            np.testing.assert_allclose(similarities, wanted[1], atol=1e-6)
        else:  # with a filter the processor reads some more lists
            assert k > 10 or len(rows) == k
            assert len(np.intersect1d(rows, wanted[0])) > 0.5 * len(rows)
            np.testing.assert_allclose(similarities, vectors[rows] @ vectors[7], atol=1e-6)
        assert among is None or among[rows].all()
