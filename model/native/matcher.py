"""Pairs to logits by the compiled matcher."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.native import structures as c
from model.native.library import load
from model.native.reading import (
    LayerWeights,
    MatcherWeights,
    NormWeights,
    ProductWeights,
    StackedWeights,
    read_matcher,
)
from model.spares import Spares
from model.states import QuantisedStates

#: Pairs of one call to C; more are done in several.
MOST_PAIRS = 4096


class NativeMatcher:
    """A bundle's `matcher.onnx`, compiled. Safe to use from several threads: each call has memory
    of its own, which a later one uses again, and runs without Python's lock.

    Args:
        file: the graph.

    Raises:
        NotCompiledError: there is no compiled code for this machine.
        UnknownGraphError: the graph is not one that the code computes.
    """

    def __init__(self, file: Path) -> None:
        self._library = load()
        weights = read_matcher(file)
        self._keeper = c.Keeper()
        self.hidden_size = weights.hidden
        self._matcher = ctypes.byref(self._structure(weights))
        self._memory = Spares(_Memory)

    def match(
        self,
        texts: QuantisedStates,
        images: QuantisedStates,
        lengths: NDArray[np.int32],
        rows: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Logits of some pairs.

        Args:
            texts: [B, T, H], or batch 1 for all pairs.
            images: [B, P, H], likewise.
            lengths: int32 [B], states of each pair's text that are no padding, at least 1.
            rows: the pairs that are wanted, each from 0 to B - 1.

        Returns:
            float32 [rows].

        Raises:
            ValueError: the arrays do not fit together. C reads and writes where they say.
            MemoryError: there is no room for the pass.
        """
        logits = np.empty(len(rows), dtype=np.float32)
        if len(rows) > MOST_PAIRS:
            for at in range(0, len(rows), MOST_PAIRS):
                block = rows[at : at + MOST_PAIRS]
                logits[at : at + MOST_PAIRS] = self.match(texts, images, lengths, block)
            return logits
        if not len(rows):
            return logits
        if rows.dtype.kind not in "iu":
            raise ValueError(f"rows are {rows.dtype}, not numbers of pairs")
        rows = np.ascontiguousarray(rows, dtype=np.int64)
        if rows.min() < 0 or rows.max() >= len(lengths):
            raise ValueError(f"pairs {rows.min()} to {rows.max()} of {len(lengths)}")
        chosen = np.ascontiguousarray(lengths[rows], dtype=np.int32)
        text = self._side(texts, rows, "texts")
        image = self._side(images, rows, "pictures")
        longest = int(chosen.max())
        if text.is_shared and chosen.min() != longest:
            raise ValueError(f"one text of {chosen.min()} and of {longest} states")
        if chosen.min() < 1 or longest > text.length or image.length < 1:
            raise ValueError(
                f"texts of {chosen.min()} to {longest} states in {text.length}, pictures of "
                f"{image.length}"
            )
        sides = (self._matcher, ctypes.byref(text.structure), ctypes.byref(image.structure))
        count = (ctypes.c_int32(len(rows)), ctypes.c_int32(longest))
        matcher, *both = sides
        with self._memory.one() as memory:
            room = memory.of(self._library.match_room(*sides, *count))
            self._library.match_pairs(
                matcher,
                both[0],
                _pointer(chosen),
                both[1],
                *count,
                _pointer(logits),
                _pointer(room),
            )
        return logits

    def _side(self, states: QuantisedStates, rows: NDArray[np.int64], name: str) -> _Side:
        if states.values.dtype != np.int8 or states.scales.dtype != np.float32:
            raise ValueError(f"{name} of {states.values.dtype} and {states.scales.dtype}")
        values, scales = np.ascontiguousarray(states.values), np.ascontiguousarray(states.scales)
        if (
            values.ndim != 3
            or values.shape[2] != self.hidden_size
            or scales.shape != values.shape[:2]
        ):
            raise ValueError(f"{name} of {values.shape} with scales of {scales.shape}")
        if len(values) == 1:
            return _Side(values, scales, None)
        if rows.max() >= len(values):
            raise ValueError(f"{name} {rows.max()} of {len(values)}")
        return _Side(values, scales, rows)

    # The weights, as C reads them.

    def _structure(self, weights: MatcherWeights) -> c.Matcher:
        float32 = self._float32
        *layers, last = [self._after(layer) for layer in weights.layers]
        first = [self._product(layer.products[0]) for layer in weights.layers]
        full = [c.Layer(*pair) for pair in zip(first[:-1], layers, strict=True)]
        return c.Matcher(
            hidden=weights.hidden,
            heads=weights.heads,
            layer_count=len(full),
            layers=self._keeper.array(c.Layer, full),
            last=c.LastLayer(
                query=first[-1],
                keys=float32(weights.keys),
                values=float32(weights.values),
                value_bias=float32(weights.value_bias),
                after=last,
            ),
            pooler=float32(weights.pooler),
            pooler_bias=float32(weights.pooler_bias),
            classifier=float32(weights.classifier),
            recall=self._stacked(weights.recall),
            alignment=self._stacked(weights.alignment),
            shift=weights.shift,
        )

    def _float32(self, value: NDArray[Any]) -> int:
        return self._keeper.pointer(value, np.float32)

    def _product(self, product: ProductWeights) -> c.Product:
        inner, columns = product.weight.shape
        packed = self._keeper.pointer(c.pack(product.weight), product.weight.dtype)
        rounding = product.rounding
        if rounding is None:
            bias = self._float32(product.bias)
            return c.Product(weight=packed, shift=bias, inner=inner, columns=columns)
        # uint8 x times int8 w is scale · (Σ x w - zero Σ w): the latter goes into the bias.
        scale = np.float32(rounding.scale) * rounding.scales
        sums = product.weight.sum(axis=0, dtype=np.int64)
        return c.Product(
            weight=packed,
            shift=self._float32(product.bias - scale * np.float64(rounding.zero) * sums),
            scale=self._float32(scale),
            multiplier=self._float32(rounding.factors / np.float32(rounding.scale)),
            apart_rows=self._float32(rounding.apart_rows),
            apart=self._keeper.pointer(rounding.apart, np.int32),
            inner=inner,
            columns=columns,
            zero=rounding.zero,
            apart_count=len(rounding.apart),
            eight_bit=1,
        )

    def _norm(self, norm: NormWeights) -> c.Norm:
        return c.Norm(self._float32(norm.weight), self._float32(norm.bias), norm.epsilon)

    def _after(self, layer: LayerWeights) -> c.AfterAttention:
        products = [self._product(product) for product in layer.products[1:]]
        return c.AfterAttention(*products, *(self._norm(norm) for norm in layer.norms))

    def _stacked(self, score: StackedWeights | None) -> c.Stacked:
        if score is None:
            return c.Stacked()
        salience = np.empty(0) if score.salience is None else score.salience
        parts = (score.text, score.text_bias, score.image, score.image_bias, salience)
        pointers = [self._float32(part) for part in parts]
        return c.Stacked(*pointers, score.weight, score.text.shape[1])


class _Memory:
    """What one pass at a time computes in."""

    def __init__(self) -> None:
        self._bytes: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)

    def of(self, size: int) -> NDArray[np.uint8]:
        """At least so many bytes."""
        if len(self._bytes) < size:
            self._bytes = np.zeros(0, dtype=np.uint8)  # first the old ones go
            self._bytes = np.zeros(size, dtype=np.uint8)
        return self._bytes


class _Side:
    """A side of pairs as C reads it, and the arrays that it points into."""

    def __init__(
        self,
        values: NDArray[np.int8],
        scales: NDArray[np.float32],
        rows: NDArray[np.int64] | None,
    ) -> None:
        self.length = values.shape[1]
        self.is_shared = rows is None
        self._kept = (values, scales, rows)
        self.structure = c.Side(
            values.ctypes.data,
            scales.ctypes.data,
            None if rows is None else rows.ctypes.data,
            self.length,
        )


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
