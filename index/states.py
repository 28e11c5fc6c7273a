"""Arrays on disk that grow row by row, and the stored states read from them.

The files are plain `.npy`. A writer leaves the row count in the header open until it is closed, so
a job that was killed can cut a file back to the rows it had recorded and go on.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from index.read_ahead import read_ahead
from model.errors import SnapshotError
from model.states import QuantisedStates

Rows = Sequence[int] | NDArray[np.integer[Any]]


class BytesWriter:
    """Appends to a file whose first `size` bytes stand; what a killed run wrote after is cut off.

    Args:
        path: made new when `size` is 0.
        size: bytes to keep.

    Raises:
        SnapshotError: the file is missing or shorter than `size`.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self.size = size
        if not size:
            self._file = path.open("w+b", buffering=0)
            return
        if not path.is_file() or path.stat().st_size < size:
            raise SnapshotError(f"{path} is missing or shorter than the {size:,} bytes recorded")
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(size)
        self._file.seek(size)

    def append(self, data: bytes | memoryview) -> None:
        """Write at the end."""
        self._write(data)
        self.size += len(data)

    def _write(self, data: bytes | memoryview) -> None:
        # Unbuffered, so that a full disk shows here and not when the file is closed.
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def replace_head(self, head: bytes) -> None:
        """Overwrite the first bytes."""
        self._file.seek(0)
        self._write(head)
        self._file.seek(self.size)

    def sync(self) -> None:
        """Return when what was appended would survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        self._file.close()


class ArrayWriter:
    """Appends rows to a `.npy` file.

    Args:
        path: the file; made new when `rows` is 0.
        dtype: of the array.
        row_shape: of one row.
        rows: how many rows to keep of an earlier run.

    Raises:
        SnapshotError: the file is missing or holds fewer than `rows` rows.
    """

    def __init__(
        self, path: Path, dtype: DTypeLike, row_shape: tuple[int, ...] = (), *, rows: int = 0
    ) -> None:
        self.rows = rows
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._row_shape = row_shape
        head = self._header()
        row_bytes = self._dtype.itemsize * int(np.prod(row_shape, dtype=np.int64))
        self._writer = BytesWriter(path, len(head) + rows * row_bytes if rows else 0)
        if not rows:
            self._writer.append(head)

    def _header(self) -> bytes:
        # numpy pads the header for 21 digits of the first axis, so its length never changes.
        buffer = io.BytesIO()
        fields = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.rows, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(buffer, fields)
        return buffer.getvalue()

    def append(self, rows: NDArray[Any]) -> None:
        """Write rows [n, *row_shape] of the writer's dtype.

        Raises:
            ValueError: of another shape or dtype.
        """
        if rows.shape[1:] != self._row_shape or rows.dtype != self._dtype:
            raise ValueError(
                f"{self._writer.path.name} takes {self._dtype} rows of {self._row_shape}, "
                f"not {rows.dtype} {rows.shape[1:]}"
            )
        if len(rows):
            self._writer.append(np.ascontiguousarray(rows).data.cast("B"))
            self.rows += len(rows)

    def sync(self) -> None:
        """Return when every row would survive a power cut."""
        self._writer.sync()

    def finish(self) -> None:
        """Put the row count into the header, sync and close: the file is a whole `.npy` now."""
        self._writer.replace_head(self._header())
        self._writer.sync()
        self._writer.close()

    def close(self) -> None:
        """Let go of the file as it is. May be called twice, and after `finish`."""
        self._writer.close()


def open_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Memory-map a `.npy` file, read-only.

    Raises:
        SnapshotError: it cannot be read, or holds another dtype or shape.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy's header parser raises half a dozen unrelated classes
        raise SnapshotError(f"{path} is damaged ({error}): build the snapshot again") from error
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise SnapshotError(
            f"{path} holds {array.dtype} {array.shape}, the manifest says {np.dtype(dtype)} "
            f"{shape}: build the snapshot again"
        )
    # A bare view: indexing a np.memmap makes a Python object of that class each time.
    return np.asarray(array)


@dataclass(frozen=True, slots=True)
class ImageStates:
    """States of pictures: `values` int8 [M, P, H], `scales` float32 [M, P]."""

    values: NDArray[np.int8]
    scales: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)

    def gather(self, rows: Rows) -> QuantisedStates:
        """Copies of the rows asked for: [n, P, H]."""
        index = _within(rows, len(self), "picture")
        read_ahead(self.values, index)  # a page of scales serves forty rows, and is soon there
        return QuantisedStates(self.values[index], self.scales[index])


@dataclass(frozen=True, slots=True)
class TextStates:
    """States of texts, one after the other without padding.

    `values` int8 [tokens, H], `scales` float32 [tokens], `offsets` int64 [N + 1]: text i has the
    tokens from `offsets[i]` up to `offsets[i + 1]`.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def gather(self, rows: Rows) -> QuantisedStates:
        """Copies of the rows asked for, padded to the longest of them with 0: [n, T, H]."""
        index = _within(rows, len(self), "text")
        starts = self.offsets[index]
        lengths = self.offsets[index + 1] - starts
        read_ahead(self.values, starts, lengths)
        position = np.arange(lengths.max(initial=0), dtype=np.int64)
        padding = position >= lengths[:, None]
        # Padding reads the text's own first token, a page that is there anyway, and is wiped.
        tokens = starts[:, None] + np.where(padding, 0, position)
        values, scales = self.values[tokens], self.scales[tokens]
        values[padding] = 0
        scales[padding] = 0
        return QuantisedStates(values, scales)


def _within(rows: Rows, count: int, kind: str) -> NDArray[np.int64]:
    """Rows as an array, all of them stored: numpy would take a negative one from the end.

    Raises:
        IndexError: one is not stored.
    """
    index = np.asarray(rows, dtype=np.int64)
    if len(index) and (index.min() < 0 or index.max() >= count):
        raise IndexError(f"{kind} rows go from 0 to {count - 1}")
    return index


def ragged(states: QuantisedStates) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[Any]]:
    """Padded states [B, T, H] as they are stored.

    Returns:
        values int8 [tokens, H], scales float32 [tokens], and the lengths int64 [B].
    """
    real = states.scales > 0
    return states.values[real], states.scales[real], real.sum(axis=1, dtype=np.int64)


def check_finite(embeddings: NDArray[np.float32]) -> None:
    """Look at embeddings before they are kept: FAISS would take a NaN and lose neighbours.

    Raises:
        SnapshotError: not all of them are finite numbers.
    """
    if not np.isfinite(embeddings).all():
        raise SnapshotError(
            "the model gives embeddings that are not finite numbers: export it again, and look "
            "at how it trained"
        )
