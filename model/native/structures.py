"""The weights as C reads them: mirrors of the structures in the headers, field by field."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Columns of a packed panel; rows and columns come in whole ones.
PANEL = 64
#: Floats of a vector.
LANES = 16
#: Channels of an activation that may be multiplied in fp32.
MOST_APART = 8


def _fields(pointers: str, integers: str = "") -> list[tuple[str, Any]]:
    return [
        *((name, ctypes.c_void_p) for name in pointers.split()),
        *((name, ctypes.c_int32) for name in integers.split()),
    ]


class Product(ctypes.Structure):
    """products.h."""

    _fields_ = _fields(
        "weight shift scale multiplier apart_rows apart",
        "inner columns zero apart_count eight_bit",
    )


class Norm(ctypes.Structure):
    """network.h."""

    _fields_ = [*_fields("weight bias"), ("epsilon", ctypes.c_double)]


class AfterAttention(ctypes.Structure):
    """network.h."""

    _fields_ = [
        ("attended", Product),
        ("intermediate", Product),
        ("output", Product),
        ("attention_norm", Norm),
        ("output_norm", Norm),
    ]


class Layer(ctypes.Structure):
    """network.h."""

    _fields_ = [("projections", Product), ("after", AfterAttention)]


class LastLayer(ctypes.Structure):
    """network.h."""

    _fields_ = [
        ("query", Product),
        *_fields("keys values value_bias"),
        ("after", AfterAttention),
    ]


class Stacked(ctypes.Structure):
    """network.h."""

    _fields_ = [
        *_fields("text text_bias image image_bias salience"),
        ("weight", ctypes.c_double),
        ("size", ctypes.c_int32),
    ]


class Matcher(ctypes.Structure):
    """network.h."""

    _fields_ = [
        *_fields("", "hidden heads layer_count"),
        ("layers", ctypes.POINTER(Layer)),
        ("last", LastLayer),
        *_fields("pooler pooler_bias classifier"),
        ("recall", Stacked),
        ("alignment", Stacked),
        ("shift", ctypes.c_double),
    ]


class Side(ctypes.Structure):
    """matcher.c."""

    _fields_ = _fields("values scales rows", "length")


class Keeper:
    """Arrays that structures point into, kept as long as it is."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def pointer(self, value: NDArray[Any], kind: Any) -> int:
        """The address of a copy in C's order that begins a cache line."""
        value = np.ascontiguousarray(value, dtype=kind)
        memory = np.zeros(value.nbytes + 64, dtype=np.uint8)
        start = -memory.ctypes.data % 64
        copy = memory[start : start + value.nbytes].view(kind)
        copy[:] = value.reshape(-1)
        self._kept.append(memory)
        return int(copy.ctypes.data)

    def array(self, kind: type[ctypes.Structure], entries: Sequence[ctypes.Structure]) -> Any:
        """Structures one after the other."""
        kept = (kind * max(1, len(entries)))(*entries)
        self._kept.append(kept)
        return kept


def pack(weight: NDArray[Any]) -> NDArray[Any]:
    """[K, N] → [N / 64, K / 4, 64, 4] in int8 or [N / 64, K, 64] in float32, as products.h reads
    it."""
    inner, columns = weight.shape
    four = 4 if weight.dtype == np.int8 else 1
    panels = weight.reshape(inner // four, four, columns // PANEL, PANEL)
    return np.ascontiguousarray(panels.transpose(2, 0, 3, 1))
