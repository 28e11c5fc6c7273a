"""States that lie on a device from one pass to the next, and rows of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model.states import QuantisedStates

#: Most values of a table. CUDA's Gather counted them in 32 bits until onnxruntime pull request
#: 28108 (April 2026), and read anywhere beyond; which release has that was not to be found out.
MOST_VALUES = 2**31 - 1


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Table:
    """`values` int8 [N, L, H] and `scales` float32 [N, L] on a device; `lengths` int32 [N] of the
    rows without padding."""

    values: ort.OrtValue
    scales: ort.OrtValue
    lengths: NDArray[np.int32]
    nbytes: int

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def of(cls, states: QuantisedStates, device: str) -> Table:
        """States on a device, `cpu` or `cuda`; on `cpu` they are not copied."""
        values, scales = np.ascontiguousarray(states.values), np.ascontiguousarray(states.scales)
        return cls(
            ort.OrtValue.ortvalue_from_numpy(values, device),
            ort.OrtValue.ortvalue_from_numpy(scales, device),
            states.lengths,
            values.nbytes + scales.nbytes,
        )


@dataclass(frozen=True, slots=True)
class TableRows:
    """B rows of states: row i is row `rows[i]` of a table, or, where that is negative, the next one
    of `others`, in their order."""

    table: Table
    rows: NDArray[np.int64]
    others: QuantisedStates

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Vectors of each row that are no padding: int32 [B]."""
        here = self.rows >= 0
        lengths = np.empty(len(self.rows), dtype=np.int32)
        lengths[here] = self.table.lengths[self.rows[here]]
        lengths[~here] = self.others.lengths
        return lengths


#: One side of pairs: as they are, or partly on a device.
States = QuantisedStates | TableRows


def rows_of(
    table: Table | None,
    rows: NDArray[np.int64],
    gather: Callable[[NDArray[np.int64]], QuantisedStates],
) -> States:
    """Stored rows, from a table as far as it has them, if it has half of them or more.

    Rows of both kinds are two runs of the matcher's graph, which take longer than to copy a few
    more rows; half is a guess.

    Args:
        table: of the first rows that are stored, or None.
        rows: their numbers, [B].
        gather: reads rows from elsewhere.
    """
    if table is None:
        return gather(rows)
    here = rows < len(table)
    if 2 * np.count_nonzero(here) < len(rows):
        return gather(rows)
    return TableRows(table, np.where(here, rows, -1), gather(rows[~here]))
