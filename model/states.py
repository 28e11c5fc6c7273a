"""States as they are stored and matched: int8 with one float32 scale a vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class QuantisedStates:
    """`values` int8 [B, L, H] and `scales` float32 [B, L]; state = value · scale.

    A scale of 0 marks padding: a real state is a layer norm's output and never nought.
    """

    values: NDArray[np.int8]
    scales: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | Sequence[int] | NDArray[np.int64]) -> QuantisedStates:
        return QuantisedStates(self.values[rows], self.scales[rows])

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Vectors of each row that are no padding: int32 [B]."""
        lengths: NDArray[np.int32] = np.count_nonzero(self.scales, axis=1).astype(np.int32)
        return lengths

    def dequantise(self) -> NDArray[np.float32]:
        """float32 [B, L, H]."""
        return self.values.astype(np.float32) * self.scales[..., None]


def quantise(states: NDArray[np.float32], mask: NDArray[np.int64] | None = None) -> QuantisedStates:
    """Round states to int8, each vector by its own largest magnitude.

    Args:
        states: float32 [B, L, H].
        mask: [B, L], 0 for padding, whose scale becomes 0.
    """
    scales = np.abs(states).max(axis=-1) / np.float32(127)
    scales = np.maximum(scales, np.float32(1e-12))
    values = np.rint(states / scales[..., None]).astype(np.int8)
    if mask is not None:
        scales = np.where(mask > 0, scales, np.float32(0))
        values[mask == 0] = 0
    return QuantisedStates(values, scales.astype(np.float32))
