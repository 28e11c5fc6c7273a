"""The products of a snapshot with later writes on top, in the form that `Items` has.

A row is one of the snapshot's, or, after those, one of the delta's. Rows that were deleted or
replaced keep their numbers and can be read; no mask or count has them.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np

from index.arrow_columns import mixed_column, plain_column
from index.columns import (
    KINDS,
    Column,
    Kind,
    Mask,
    NumberPart,
    NumberValues,
    Operator,
    Part,
)
from index.delta import Delta
from index.items import Item, Items, attribute_array
from model.attributes import LONG, column_type, is_exact_as_float
from model.product import Attribute, Scalar


@dataclass(frozen=True, slots=True, eq=False)
class ChainedPart:
    """Values of one kind: of the snapshot's products, then of the delta's; see `columns.Part`.

    A side that has none of this kind is None. `live` [N] marks the rows that count, `split` is
    where the delta's begin.
    """

    base: Part | None
    delta: Part | None
    live: Mask
    split: int

    def _chain(self, base: Mask | None, delta: Mask | None) -> Mask:
        mask = np.zeros(len(self.live), dtype=np.bool_)
        if base is not None:
            mask[: self.split] = base
        if delta is not None:
            mask[self.split :] = delta
        return mask & self.live

    @property
    def present(self) -> Mask:
        """As `Part` has it."""
        return self._chain(
            None if self.base is None else self.base.present,
            None if self.delta is None else self.delta.present,
        )

    def any_of(self, values: Sequence[Any]) -> Mask:
        """As `Part` has it."""
        return self._chain(
            None if self.base is None else self.base.any_of(values),
            None if self.delta is None else self.delta.any_of(values),
        )

    def compare(self, operator: Operator, bound: Any) -> Mask:
        """As `Part` has it."""
        return self._chain(
            None if self.base is None else self.base.compare(operator, bound),
            None if self.delta is None else self.delta.compare(operator, bound),
        )

    def top(self, among: Mask | None, limit: int) -> tuple[list[tuple[Scalar, int]], int]:
        """As `Part` has it; of equally frequent values the snapshot's come first."""
        among = self.live if among is None else among & self.live
        counts: Counter[Scalar] = Counter()
        for part, span in (
            (self.base, slice(None, self.split)),
            (self.delta, slice(self.split, None)),
        ):
            if part is not None:
                counts.update(dict(part.top(among[span], sys.maxsize)[0]))
        return counts.most_common(limit), len(counts)

    def selected(self, among: Mask | None) -> NumberValues:
        """The numbers that are there, of all products or of some; of parts of numbers only."""
        among = self.live if among is None else among & self.live
        sides = ((self.base, among[: self.split]), (self.delta, among[self.split :]))
        values: NumberValues = np.concatenate(
            [cast(NumberPart, part).selected(mask) for part, mask in sides if part is not None]
        )
        return values


class LiveItems:
    """The products of a `LiveSnapshot`: read by any row, iterated over those that count."""

    def __init__(self, base: Items, delta: Delta) -> None:
        self._base = base
        self._delta = delta
        self._split = len(base)
        self._puts = delta.rows.puts[: delta.products]
        self._columns: dict[str, Column | None] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._split + len(self._puts)

    @cached_property
    def live(self) -> Mask:
        """The rows that are neither deleted nor replaced: bool [rows]."""
        return np.concatenate([self._delta.base_live, self._delta.live])

    def row_of(self, id: str) -> int:
        """The row of a product; KeyError if there is none with this id."""
        row = self._delta.row_of.get(id)
        if row is not None:
            return self._split + row
        if id in self._delta.deleted:
            raise KeyError(id)
        return self._base.row_of(id)

    def __getitem__(self, row: int) -> Item:
        own = row - self._split
        item = self._base[row] if own < 0 else self._puts[own].head.item
        lone = {
            name: (value,)
            for name, value in item.attributes.items()
            if isinstance(value, str) and self._has_lists(name)
        }
        return replace(item, attributes=item.attributes | lone) if lone else item

    def _has_lists(self, name: str) -> bool:
        """Whether an attribute's values are lists, each of them, if only of one."""
        if self._base.attribute_types.get(name) == "strings":
            return True
        # Other types are looked at only where a put may have made it so.
        has_lists = (name, "strings") in self._delta.types
        return has_lists and self.attribute_types.get(name) == "strings"

    def __iter__(self) -> Iterator[Item]:
        return (self[row] for row in np.flatnonzero(self.live).tolist())

    @cached_property
    def attribute_types(self) -> Mapping[str, str]:
        """Attribute names to their types, as `Items` has them; the snapshot's first.

        They are those of the snapshot and of the puts that count. Integers among numbers with a
        fraction are `double` where float64 has each of them, else `mixed`.
        """
        types = dict(self._base.attribute_types)
        for name, own in self._own_types.items():
            there = set(own)
            if name in types:
                there.add(types[name])
                if there >= {"int64", "double"} and self._has_long(name):
                    there.add(LONG)
            types[name] = column_type(there)
        return types

    @cached_property
    def _own_types(self) -> Mapping[str, Set[str]]:
        """The types of the values that puts have, by attribute."""
        own: dict[str, set[str]] = {}
        for name, type in self._delta.types:  # not the puts: each write makes a version of its own
            own.setdefault(name, set()).add(type)
        return own

    def _has_long(self, name: str) -> bool:
        """Whether the snapshot's products that count have integers that float64 does not have."""
        column = self._base.column(name)
        if column is None or column.type != "int64":
            return False
        values = cast(NumberPart, column.parts["number"]).selected(self._delta.base_live)
        far = values[(values < -(1 << 53)) | (values > 1 << 53)]
        return not all(map(is_exact_as_float, far.tolist()))

    def column(self, name: str) -> Column | None:
        """One attribute of all products, made for comparing; None if no product has it."""
        with self._lock:
            if name not in self._columns:
                self._columns[name] = self._chained(name)
            return self._columns[name]

    def _chained(self, name: str) -> Column | None:
        if name not in self.attribute_types:
            return None
        base = self._base.column(name)
        own = self._own_column(name)
        live = self.live
        parts: dict[Kind, Part] = {}
        for kind in KINDS["mixed"]:
            sides = [None if side is None else side.parts.get(kind) for side in (base, own)]
            if any(side is not None for side in sides):
                parts[kind] = ChainedPart(sides[0], sides[1], live, self._split)
        return Column(self.attribute_types[name], parts)

    def _own_column(self, name: str) -> Column | None:
        """One attribute of the delta's rows; None if no put that counts has it."""
        if name not in self._own_types:
            return None
        values: list[Attribute | None] = [
            put.head.item.attributes.get(name) if counts else None
            for put, counts in zip(self._puts, self._delta.live.tolist(), strict=True)
        ]
        type = column_type(self._own_types[name])
        array = attribute_array(values, type)
        return mixed_column(array) if type == "mixed" else plain_column(array)
