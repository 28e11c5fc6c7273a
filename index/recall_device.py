"""FAISS on a GPU, by choice: which indexes can be copied there, and the one thread that may search.

An exact index and IVF-PQ have GPU kinds, HNSW has none
(https://github.com/facebookresearch/faiss/wiki/Faiss-on-the-GPU). A GPU index ignores the selectors
that filters are made of without a word (faiss issue 3924), so a search with a filter stays on the
processor, unless it hides so few rows, as later writes do, that as many more can be asked for. So
does one for more rows than a GPU index can give.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from model.errors import FashionBertError

RecallDevice = Literal["cpu", "cuda"]

#: Most rows of one search, and most lists that it reads, of any GPU index.
MOST_ROWS = 2048
#: Of the memory that FAISS computes in; what it keeps beside the indexes.
_WORK_BYTES = 256 << 20
#: Shared memory of a block, which the lookup tables of IVF-PQ have to fit in.
_SHARED_BYTES = 48 << 10

_faiss: Any = faiss
_logger = logging.getLogger("fashionbert.search")

# One for all indexes: it is memory on the GPU, and only one thread at a time may use it.
_resources: list[Any] = []
_lock = threading.Lock()


def check_device(device: str) -> None:
    """Refuse a device that this FAISS cannot use.

    Raises:
        FashionBertError: it has no GPU code, sees no GPU, or there is no such device.
    """
    if device == "cpu":
        return
    if device != "cuda":
        raise FashionBertError(f"recall device {device!r}: choose 'cpu' or 'cuda'")
    if not hasattr(faiss, "StandardGpuResources"):
        raise FashionBertError(
            "recall device 'cuda' was asked for (FASHIONBERT_RECALL_DEVICE), but the FAISS that is "
            "installed is faiss-cpu: install fashionbert[gpu], which has faiss-gpu, or choose 'cpu'"
        )
    if not _faiss.get_num_gpus():
        raise FashionBertError(
            "recall device 'cuda' was asked for (FASHIONBERT_RECALL_DEVICE), but FAISS sees no "
            "GPU: look for the driver, or choose 'cpu'"
        )


class GpuRecall:
    """A copy on the GPU of an index that can be searched there. Safe to use from several threads,
    of which one searches at a time."""

    def __init__(self, index: Any) -> None:
        self._index = index

    def search(self, vectors: NDArray[np.float32], rows: int) -> tuple[Any, Any]:
        """Similarities float32 [Q, k] and rows int64 [Q, k] of the k nearest to [Q, E]."""
        with _lock:
            similarities, found = self._index.search(vectors, rows)
        return similarities, found


def to_gpu(index: Any, rule: str, path: Path) -> GpuRecall | None:
    """A copy of an index on the GPU, or None, which is logged, where it cannot be there.

    Args:
        index: on the processor.
        rule: the one it was built by.
        path: its file, for the log.
    """
    why = _why_not(index, rule)
    if why is None:
        try:
            with _lock:
                if not _resources:
                    _resources.append(_faiss.StandardGpuResources())
                    _resources[0].setTempMemory(_WORK_BYTES)
                recall = GpuRecall(_faiss.index_cpu_to_gpu(_resources[0], 0, index, options(index)))
            # A build without code for this kind of GPU shows now, and not in somebody's search.
            recall.search(np.zeros((1, index.d), dtype=np.float32), 1)
            return recall
        except RuntimeError as error:  # FAISS has one class for all: the GPU may be full
            why = str(error)
    _logger.warning("%s is searched on the processor, not on the GPU: %s", path, why)
    return None


def options(index: Any) -> Any:
    """How an index is copied: nothing it keeps is rounded to 16 bits.

    The lookup tables of IVF-PQ alone are where they do not fit into a block's memory otherwise:
    what it finds is compared exactly afterwards.
    """
    chosen = _faiss.GpuClonerOptions()
    chosen.useFloat16 = needs_half_tables(index)
    chosen.useFloat16CoarseQuantizer = False
    if hasattr(chosen, "use_cuvs"):  # of builds that have it: other kernels, with other limits
        chosen.use_cuvs = False
    return chosen


def needs_half_tables(index: Any) -> bool:
    """Whether an IVF-PQ's lookup tables, 256 float32 for each part, are more than a block has."""
    parts = getattr(getattr(index, "pq", None), "M", 0)
    return bool(parts * 256 * np.dtype(np.float32).itemsize > _SHARED_BYTES)


def _why_not(index: Any, rule: str) -> str | None:
    if rule == "hnsw":
        return (
            "FAISS has no HNSW for GPUs; build the snapshot with --recall exact, or with --recall "
            "ivfpq where there are very many products, for FASHIONBERT_RECALL_DEVICE=cuda"
        )
    lists = getattr(index, "nprobe", 0)
    if lists > MOST_ROWS:
        return f"it reads {lists:,} lists a search, and a GPU reads {MOST_ROWS:,} at most"
    return None
