"""The matcher of `model.row_inputs`, fed by IO binding: pairs of several searches in one pass.

Rows of a table that is on the device are only named. Others are gathered into buffers that are used
again, and copied to the device when they are bound. For a GPU they are page-locked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model.cuts import Rows
from model.pinned import Allocate, plain
from model.spares import Spares
from model.states import QuantisedStates
from model.tables import States, Table, TableRows

#: A value of a pass: an `OrtValue` on the device, or an array that is to be copied there.
Value = Any


def takes_rows(session: Any) -> bool:
    """Whether a matcher is one of those; bundles of older versions have none."""
    return any(entry.name == "text_rows" for entry in session.get_inputs())


def with_all_rows(feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The inputs of a matcher without rows, for one with them: all of each side."""
    texts, images = feeds["text_states"], feeds["image_states"]
    return {
        **feeds,
        "text_rows": np.arange(len(texts), dtype=np.int64),
        "image_rows": np.arange(len(images), dtype=np.int64),
        "text_length": np.array([texts.shape[1]], dtype=np.int64),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """A caller's pairs, of which passes fill in the `logits` float32 [B].

    A side is of B rows, or of one that goes with all of the other. `lengths` int32 [B] are those of
    the texts.
    """

    texts: States
    images: States
    logits: NDArray[np.float32]
    lengths: NDArray[np.int32]

    @property
    def tables(self) -> tuple[int, int]:
        """Which tables they are of: those of the same ones may share passes, as may those without.

        A number stands for a table as long as the pairs are there.
        """
        sides = (self.texts, self.images)
        text, image = (id(side.table) if isinstance(side, TableRows) else 0 for side in sides)
        return text, image


@dataclass(slots=True)
class _Side:
    """One side of a pass: a table, on the device or not, and the row of each pair."""

    values: Value
    scales: Value
    rows: NDArray[np.int64]

    def __post_init__(self) -> None:
        if (self.rows == self.rows[0]).all():  # what depends on it alone is computed once
            self.rows = self.rows[:1]


class _Buffers:
    """Memory that a pass is gathered into, by what it is for."""

    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate
        self._memory: dict[str, NDArray[np.uint8]] = {}

    def take(self, name: str, shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
        """An array that holds anything, until it is taken again."""
        size = math.prod(shape) * np.dtype(kind).itemsize
        memory = self._memory.get(name)
        if memory is None or memory.size < size:
            # In powers of two: to lock pages takes longer than most passes, so it is done seldom.
            memory = self._memory[name] = self._allocate(1 << (size - 1).bit_length())
        return memory[:size].view(kind).reshape(shape)


class RowMatcher:
    """Runs passes of a matcher with row inputs. Safe to use from several threads.

    Args:
        session: of a graph with row inputs, on any provider.
        allocate: gives the memory that is copied to its device.
    """

    def __init__(self, session: Any, allocate: Allocate = plain) -> None:
        self._session = session
        self._buffers = Spares(lambda: _Buffers(allocate))

    def run(self, parts: Sequence[tuple[Pairs, Rows]]) -> None:
        """One pass over some rows of each caller's pairs, which are all of the same tables.

        Where some are in a table and some are not, it is a pass for each.
        """
        groups: dict[tuple[bool, bool], list[tuple[Pairs, Rows]]] = {}
        for pairs, rows in parts:
            texts, images = _is_in_table(pairs.texts, rows), _is_in_table(pairs.images, rows)
            for key in ((True, True), (True, False), (False, True), (False, False)):
                chosen = rows[(texts == key[0]) & (images == key[1])]
                if len(chosen):
                    groups.setdefault(key, []).append((pairs, chosen))
        with self._buffers.one() as buffers:
            for (text_table, image_table), group in groups.items():
                self._run_group(buffers, group, text_table, image_table)

    def _run_group(
        self,
        buffers: _Buffers,
        group: list[tuple[Pairs, Rows]],
        text_table: bool,
        image_table: bool,
    ) -> None:
        length = max(int(pairs.lengths[rows].max()) for pairs, rows in group)
        of_texts = [(pairs.texts, rows) for pairs, rows in group]
        of_images = [(pairs.images, rows) for pairs, rows in group]
        texts = _side(buffers, "text", of_texts, text_table, length)
        images = _side(buffers, "image", of_images, image_table)
        logits = self._run(
            {
                "text_states": texts.values,
                "text_scales": texts.scales,
                "image_states": images.values,
                "image_scales": images.scales,
                "text_rows": texts.rows,
                "image_rows": images.rows,
                "text_length": np.array([length], dtype=np.int64),
            }
        )
        counts = [len(rows) for _, rows in group]
        logits = np.broadcast_to(logits, (sum(counts),))  # the same pair all along is one
        parts = np.split(logits, np.cumsum(counts)[:-1])
        for (pairs, rows), part in zip(group, parts, strict=True):
            pairs.logits[rows] = part

    def _run(self, feeds: dict[str, Value]) -> NDArray[np.float32]:
        binding = self._session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, ort.OrtValue):
                binding.bind_ortvalue_input(name, value)
            else:
                binding.bind_cpu_input(name, value)
        binding.bind_output("logit")  # to plain memory
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding)
        (logits,) = binding.copy_outputs_to_cpu()
        found: NDArray[np.float32] = logits
        return found


def _side(
    buffers: _Buffers,
    name: str,
    parts: list[tuple[States, Rows]],
    in_table: bool,
    length: int | None = None,
) -> _Side:
    """What all parts have on one side: the table they share, or their rows one after another.

    Args:
        buffers: what is in no table goes there.
        name: of the side.
        parts: each one's states, and the pairs whose rows are wanted.
        in_table: whether those are in the table.
        length: of the longest text.
    """
    if in_table:
        table, rows = _table_rows(parts)
        return _Side(table.values, table.scales, rows)
    pieces, numbers, first = [], [], 0
    for states, rows in parts:
        piece, places = _others(states, rows)
        pieces.append(piece)
        numbers.append(places + first)
        first += len(piece)
    length = length or pieces[0].values.shape[1]
    width = pieces[0].values.shape[2]
    values = buffers.take(f"{name} values", (first, length, width), np.int8)
    scales = buffers.take(f"{name} scales", (first, length), np.float32)
    at = 0
    for piece in pieces:
        there = min(length, piece.values.shape[1])
        span = slice(at, at + len(piece))
        values[span, :there] = piece.values[:, :there]
        scales[span, :there] = piece.scales[:, :there]
        values[span, there:], scales[span, there:] = 0, 0
        at = span.stop
    return _Side(values, scales, np.concatenate(numbers))


def _of_pairs(states: States, rows: Rows) -> Rows:
    """The rows of a side that some pairs are of."""
    return np.zeros_like(rows) if len(states) == 1 else rows


def _is_in_table(states: States, rows: Rows) -> NDArray[np.bool_]:
    if isinstance(states, QuantisedStates):
        return np.zeros(len(rows), dtype=np.bool_)
    found: NDArray[np.bool_] = states.rows[_of_pairs(states, rows)] >= 0
    return found


def _table_rows(parts: list[tuple[States, Rows]]) -> tuple[Table, NDArray[np.int64]]:
    tables, numbers = [], []
    for states, rows in parts:
        assert isinstance(states, TableRows)  # others are in none
        tables.append(states.table)
        numbers.append(states.rows[_of_pairs(states, rows)])
    return tables[0], np.concatenate(numbers)


def _others(states: States, rows: Rows) -> tuple[QuantisedStates, NDArray[np.int64]]:
    """The states of some pairs that are in no table, each once, and which is each pair's."""
    if isinstance(states, TableRows):
        places = np.cumsum(states.rows < 0) - 1
        states, rows = states.others, places[_of_pairs(states, rows)]
    if len(states) == 1:
        return states, np.zeros(len(rows), dtype=np.int64)
    return states[rows], np.arange(len(rows), dtype=np.int64)
