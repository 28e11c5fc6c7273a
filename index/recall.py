"""Recall: the nearest embeddings of one modality, by FAISS.

Which index is built is `index.recall_rules`'s to say.

A search among some of the vectors only (a filter's) is done inside the index too, so that it finds
as many as it is asked for: `exact` skips the others. HNSW and IVFPQ find fewer of the nearest the
narrower the filter, so up to 200,000 vectors that pass it are compared one by one, and for more the
index is searched more deeply: efSearch grows with 1/share, and so do the lists that are read.
`benchmarks/filters.py` measures it.

A search takes one thread: several were slower for one query (10,000 vectors: 0.35 ms against 0.15;
200,000: 9.1 against 7.7), and OpenMP's threads then wait for more work by spinning, on the cores
that the matcher needs next: its passes took 1.2 times as long (docs/EXPERIMENTS.md). To build an
index takes as many as OpenMP has (`OMP_NUM_THREADS`). By choice searches whose filter hides few
rows or none go to a GPU: `index.recall_device`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.read_ahead import read_ahead
from index.recall_device import MOST_ROWS, RecallDevice, check_device, to_gpu
from index.recall_rules import EXACT_UP_TO, IVFPQ_FROM, Rule
from model.errors import SnapshotError

_HNSW_LINKS = 32
_HNSW_EF_CONSTRUCTION = 200
_HNSW_EF_SEARCH = 256
_HNSW_EF_PER_RESULT = 4  # nodes kept in view for each row wanted, where a filter hides most
_TRAIN_PER_LIST = 64
#: So many are in memory while it is trained, however many there are.
_TRAIN_AT_MOST = 1 << 18
_LEAST_PER_LIST = 39  # FAISS warns of fewer
_OVERFETCH, _FETCH_AT_LEAST = 6, 64
_LISTED_PER_ROW = 2  # vectors in the lists that are looked at, for each row that is fetched
_BLOCK = 1 << 16  # vectors added or compared at a time

Embeddings = NDArray[np.float32]
_faiss: Any = faiss


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """FAISS with one thread; OpenMP keeps the number for each calling thread by itself."""
    before = _faiss.omp_get_max_threads()
    _faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        _faiss.omp_set_num_threads(before)


def write_index(embeddings: Embeddings, rule: Rule, path: Path) -> None:
    """Build an index over float32 [N, E] of unit length, which may be memory-mapped, and save it.

    `exact` gives the same file for the same embeddings; HNSW is built by several threads and
    does not.

    Raises:
        OSError: it cannot be written.
    """
    size = embeddings.shape[1]
    index: Any
    if rule == "exact":
        index = faiss.IndexFlatIP(size)
    elif rule == "hnsw":
        index = faiss.IndexHNSWFlat(size, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _HNSW_EF_CONSTRUCTION
        index.hnsw.efSearch = _HNSW_EF_SEARCH
    else:
        index = _trained_ivfpq(embeddings)
    for start in range(0, len(embeddings), _BLOCK):
        index.add(np.ascontiguousarray(embeddings[start : start + _BLOCK]))
    # Through Python's file: FAISS's own tells nobody what failed when it was closed.
    with path.open("wb") as file:
        _faiss.write_index(index, _faiss.PyCallbackIOWriter(file.write))


def lists_and_sample(count: int) -> tuple[int, int]:
    """Of IVFPQ over so many vectors, its lists and how many vectors they are learnt from."""
    lists = max(1, min(round(4 * math.sqrt(count)), min(count, _TRAIN_AT_MOST) // _LEAST_PER_LIST))
    return lists, min(count, _TRAIN_AT_MOST, max(IVFPQ_FROM, _TRAIN_PER_LIST * lists))


def _trained_ivfpq(embeddings: Embeddings) -> Any:
    count, size = embeddings.shape
    lists, wanted = lists_and_sample(count)
    parts = next(parts for parts in range(max(1, size // 4), 0, -1) if size % parts == 0)
    quantiser = faiss.IndexFlatIP(size)
    index = faiss.IndexIVFPQ(quantiser, size, lists, parts, 8, faiss.METRIC_INNER_PRODUCT)
    sample = np.sort(np.random.default_rng(0).choice(count, wanted, replace=False))
    index.train(np.ascontiguousarray(embeddings[sample]))
    index.nprobe = max(8, lists // 32)
    return index


def _best(
    rows: NDArray[np.int64], similarities: Embeddings, k: int
) -> tuple[NDArray[np.int64], Embeddings]:
    """The best k of some rows, best first; of equal ones the first in the catalogue."""
    if k < len(rows):
        least = np.partition(similarities, len(rows) - k)[len(rows) - k]
        chosen = similarities >= least
        rows, similarities = rows[chosen], similarities[chosen]
    order = np.lexsort((rows, -similarities))[:k]
    return rows[order], similarities[order]


class RecallIndex:
    """A saved index, memory-mapped where FAISS can, and the embeddings it was made from.

    Any number of threads may search at once.

    Args:
        path: what `write_index` saved.
        embeddings: float32 [N, E], row for row the same; may be memory-mapped.
        rule: the one it was built by.
        compare_up_to: of an approximate index, so many rows that pass a filter are all compared.
        device: `cuda` has a copy of the index on the GPU, for searches whose filter hides few rows
            or none, if it is of a kind that can be there; see `index.recall_device`.

    Raises:
        FashionBertError: FAISS cannot use that device.
        SnapshotError: the file cannot be read, or is of other vectors.
    """

    def __init__(
        self,
        path: Path,
        embeddings: Embeddings,
        rule: Rule,
        *,
        compare_up_to: int = EXACT_UP_TO,
        device: RecallDevice = "cpu",
    ) -> None:
        check_device(device)
        self.embeddings = embeddings
        self.rule = rule
        self._compare_up_to = compare_up_to
        try:
            self._index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except Exception as error:  # FAISS throws C++ exceptions of several kinds
            raise SnapshotError(
                f"{path} is no index that FAISS {faiss.__version__} can read: "
                "build the snapshot again"
            ) from error
        shape = (self._index.ntotal, self._index.d)
        if shape != embeddings.shape or self._index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise SnapshotError(
                f"{path} holds {shape[0]:,} vectors of {shape[1]}, the snapshot has "
                f"{len(embeddings):,} of {embeddings.shape[1]}: build the snapshot again"
            )
        self._gpu = to_gpu(self._index, rule, path) if device == "cuda" else None

    def __len__(self) -> int:
        return len(self.embeddings)

    def search(
        self, query: Embeddings, k: int, *, among: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], Embeddings]:
        """The rows most similar to a query, best first.

        Args:
            query: float32 [E], of unit length.
            k: at most so many rows.
            among: bool [N]; only rows marked here.

        Returns:
            rows int64 [k'], no row twice, and their cosine similarities float32 [k'], k' ≤ k. Equal
            ones come in the catalogue's order, so a smaller k gives the beginning of a larger one's
            answer (by `exact` on the processor; the others do so for what they found).
        """
        if query.shape != (self.embeddings.shape[1],) or k < 1:
            raise ValueError(f"a query of {query.shape} for {k} rows")
        matching = len(self) if among is None else int(np.count_nonzero(among))
        # Of `exact` one more, to see whether the last one is the equal of others.
        beyond = int(self._gpu is None)
        compared = max(k * _OVERFETCH, _FETCH_AT_LEAST)
        more = {"exact": k + beyond, "hnsw": k, "ivfpq": compared}[self.rule]
        fetch = min(matching, more)
        if not fetch:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        hidden = len(self) - matching
        if hidden and among is not None and self._is_narrow(matching, fetch):
            return self._compare(query, np.flatnonzero(among), k)
        vectors = np.ascontiguousarray(query[None], dtype=np.float32)
        if self._gpu is not None and fetch + hidden <= MOST_ROWS:
            # It takes no filter: so many more rows are asked for as one hides, and dropped.
            similarities, rows = self._gpu.search(vectors, fetch + hidden)
        else:
            parameters = self._parameters(among if hidden else None, matching, fetch)
            with _one_thread():
                similarities, rows = self._index.search(vectors, fetch, params=parameters)
        found = rows[0] >= 0  # FAISS fills up with -1
        if among is not None:
            found &= among[rows[0]]
        nearest, near = rows[0][found][:fetch], similarities[0][found][:fetch]
        if len(nearest) < min(k, matching):  # what it looked at has fewer, or is no way to more
            every = np.arange(len(self)) if among is None else np.flatnonzero(among)
            return self._compare(query, every, k)
        if self.rule == "ivfpq":
            read_ahead(self.embeddings, nearest)
            return self._compare(query, nearest, k)
        if len(near) > k and near[k] == near[k - 1]:
            nearest, near = self._no_less(vectors, near[k], parameters)
        return _best(nearest, near, k)

    def _no_less(
        self, vectors: Embeddings, least: np.float32, parameters: Any
    ) -> tuple[NDArray[np.int64], Embeddings]:
        """All rows at least as similar as `least`: of equal ones a search may leave out any."""
        below = float(np.nextafter(least, np.float32(-np.inf)))
        with _one_thread():
            _, similarities, rows = self._index.range_search(vectors, below, params=parameters)
        return rows, similarities

    def _is_narrow(self, matching: int, fetch: int) -> bool:
        """Whether to compare all rows that match rather than to search an approximate index."""
        if self.rule == "exact":
            return False
        if self.rule == "hnsw" and self._ef_search(matching, fetch) * _HNSW_LINKS > matching:
            return True  # the graph would compare no fewer
        return matching <= self._compare_up_to

    def _ef_search(self, matching: int, fetch: int) -> int:
        """How many nodes HNSW keeps in view: FAISS counts those that do not match too."""
        return max(_HNSW_EF_SEARCH, _HNSW_EF_PER_RESULT * fetch * len(self) // matching)

    def _parameters(self, among: NDArray[np.bool_] | None, matching: int, fetch: int) -> Any:
        """FAISS's parameters of a search among some rows or all, None for its defaults."""
        chosen: dict[str, Any] = {}
        if among is not None:
            # FAISS's own stubs know neither the array nor the keyword that its wrapper takes.
            chosen["sel"] = _faiss.IDSelectorBitmap(np.packbits(among, bitorder="little"))
        if self.rule == "hnsw" and chosen:
            return _faiss.SearchParametersHNSW(efSearch=self._ef_search(matching, fetch), **chosen)
        if self.rule == "ivfpq":
            nlist = self._index.nlist
            usual = -(-self._index.nprobe * len(self) // matching)
            enough = -(-_LISTED_PER_ROW * fetch * nlist // matching)
            return _faiss.SearchParametersIVF(nprobe=min(nlist, max(usual, enough)), **chosen)
        return _faiss.SearchParameters(**chosen) if chosen else None

    def _compare(
        self, query: Embeddings, rows: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], Embeddings]:
        """The best k of some rows, each compared exactly."""
        similarities = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            similarities[start : start + _BLOCK] = self.embeddings[block] @ query
        return _best(rows, similarities, k)

    def check(self, rows: NDArray[np.int64]) -> bool:
        """Whether stored embeddings find themselves: all of them by exact search, else most."""
        if self.rule == "exact":
            stored = np.stack([self._index.reconstruct(int(row)) for row in rows])
            if not np.array_equal(stored, self.embeddings[rows]):
                return False
        found = 0
        for row in rows:
            own = self.embeddings[row]
            _, similarities = self.search(own, 10)
            # Another picture may be just as near: a twin in the catalogue.
            found += bool(len(similarities)) and bool(similarities[0] >= own @ own - 1e-4)
        return found == len(rows) if self.rule == "exact" else 2 * found > len(rows)
