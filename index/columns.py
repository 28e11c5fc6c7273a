"""Attributes as columns that can be compared and counted: what filters and facets read.

A column keeps its values by kind: strings and booleans as codes into a dictionary of the distinct
ones, in as few bytes a product as they need; lists of strings as the codes of all of them, one
list after the other; numbers as int64 or float64, and as codes where neither has them all. Where a
catalogue mixes types under one name, the column has several parts, and of each product one of them
has the value.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model.product import Scalar

Mask = NDArray[np.bool_]
NumberValues = NDArray[np.int64] | NDArray[np.float64]
Kind = Literal["string", "number", "bool"]
Operator = Literal["gt", "gte", "lt", "lte"]

#: The kinds of value that a column of each type holds; the types are `Items.attribute_types`.
KINDS: Mapping[str, tuple[Kind, ...]] = {
    "string": ("string",),
    "int64": ("number",),
    "double": ("number",),
    "bool": ("bool",),
    "strings": ("string",),
    "mixed": ("string", "number", "bool"),
}
_OF_DICTIONARY: Mapping[Operator, Callable[..., Any]] = {
    "gt": pc.greater,
    "gte": pc.greater_equal,
    "lt": pc.less,
    "lte": pc.less_equal,
}
_OF_NUMBERS: Mapping[Operator, Callable[..., Any]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
#: Integers that a column can hold.
INT64 = range(-(1 << 63), 1 << 63)


def kind_of(value: object) -> Kind | None:
    """The kind of an attribute's value; None for what no attribute can be."""
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case _:
            return None


class Part(Protocol):
    """The values of one kind in a column of N products; masks are bool [N].

    Where a product has several, what holds of any of them holds of it.
    """

    @property
    def present(self) -> Mask:
        """The products that have a value of this kind."""

    def any_of(self, values: Sequence[Any]) -> Mask:
        """The products with a value that is one of these, which are of the part's kind."""

    def compare(self, operator: Operator, bound: Any) -> Mask:
        """The products with a value that lies on that side of a bound of the part's kind."""

    def top(self, among: Mask | None, limit: int) -> tuple[list[tuple[Scalar, int]], int]:
        """The most frequent values with the products that have them, and how many there are.

        Args:
            among: count only these products; all by default.
            limit: at most so many values.
        """


class NumberPart(Part, Protocol):
    """The part of kind `number`."""

    def selected(self, among: Mask | None) -> NumberValues:
        """The numbers that are there, of all products or of some.

        Integers among fractions come as float64, those that it does not have as the nearest.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """Strings or booleans: `codes` [N], -1 for none, into a `dictionary` of distinct values.

    Strings are compared by code point.
    """

    codes: NDArray[np.signedinteger[Any]]
    dictionary: pa.Array

    @classmethod
    def of(cls, codes: NDArray[np.signedinteger[Any]], dictionary: pa.Array) -> Coded:
        """With the codes in the smallest type that holds them."""
        return cls(codes.astype(np.min_scalar_type(-1 - len(dictionary))), dictionary)

    @property
    def present(self) -> Mask:
        """As `Part` has it."""
        return self.codes >= 0

    def any_of(self, values: Sequence[str] | Sequence[bool]) -> Mask:
        """As `Part` has it."""
        wanted = pa.array(values, self.dictionary.type)
        return self._spread(pc.is_in(self.dictionary, value_set=wanted))

    def compare(self, operator: Operator, bound: str) -> Mask:
        """As `Part` has it."""
        return self._spread(_OF_DICTIONARY[operator](self.dictionary, bound))

    def _spread(self, of_dictionary: pa.BooleanArray) -> Mask:
        """What holds of the distinct values, for each product."""
        # -1 takes the last: products without a value.
        table = np.append(of_dictionary.to_numpy(zero_copy_only=False), False)
        mask: Mask = table[self.codes]
        return mask

    def top(self, among: Mask | None, limit: int) -> tuple[list[tuple[Scalar, int]], int]:
        """As `Part` has it; of equally frequent values the catalogue's first comes first."""
        codes = self.codes if among is None else self.codes[among]
        counts = np.bincount(codes[codes >= 0], minlength=len(self.dictionary))
        best = np.argsort(-counts, kind="stable")[:limit].tolist()
        values = [(self.dictionary[code].as_py(), int(counts[code])) for code in best]
        return [one for one in values if one[1]], int(np.count_nonzero(counts))


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """Lists of distinct strings: `entries` [M] of all of them, and `rows` [M], the product of each.

    `products` is N, those without any included.
    """

    entries: Coded
    rows: NDArray[np.integer[Any]]
    products: int

    @property
    def present(self) -> Mask:
        """As `Part` has it."""
        return self._spread(self.entries.present)

    def any_of(self, values: Sequence[str]) -> Mask:
        """As `Part` has it."""
        return self._spread(self.entries.any_of(values))

    def compare(self, operator: Operator, bound: str) -> Mask:
        """As `Part` has it."""
        return self._spread(self.entries.compare(operator, bound))

    def _spread(self, of_entries: Mask) -> Mask:
        """What holds of any entry, for each product."""
        mask = np.zeros(self.products, dtype=np.bool_)
        mask[self.rows[of_entries]] = True
        return mask

    def top(self, among: Mask | None, limit: int) -> tuple[list[tuple[Scalar, int]], int]:
        """As `Part` has it; of equally frequent values the catalogue's first comes first."""
        return self.entries.top(None if among is None else among[self.rows], limit)


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """Numbers: `values` int64 or float64 [N], of which those `present` count.

    Integers are compared exactly, also with a bound that is none; float64 as float64.
    """

    values: NumberValues
    present: Mask

    def any_of(self, values: Sequence[int | float]) -> Mask:
        """As `Part` has it."""
        if self.values.dtype.kind == "i":
            values = [int(one) for one in values if one == int(one) and int(one) in INT64]
        mask: Mask = np.isin(self.values, np.array(values, dtype=self.values.dtype))
        return mask & self.present

    def compare(self, operator: Operator, bound: int | float) -> Mask:
        """As `Part` has it."""
        if self.values.dtype.kind == "i":  # x > 2.5 is x > 2, and x ≥ 2.5 is x ≥ 3
            bound = math.floor(bound) if operator in ("gt", "lte") else math.ceil(bound)
        else:
            bound = float(bound)
        mask: Mask = _OF_NUMBERS[operator](self.values, bound)
        return mask & self.present

    def selected(self, among: Mask | None) -> NumberValues:
        """As `NumberPart` has it."""
        return self.values[self.present if among is None else self.present & among]

    def top(self, among: Mask | None, limit: int) -> tuple[list[tuple[Scalar, int]], int]:
        """As `Part` has it; of equally frequent values the smallest comes first."""
        values, counts = np.unique(self.selected(among), return_counts=True)
        best = np.argsort(-counts, kind="stable")[:limit]
        pairs = zip(values[best].tolist(), counts[best].tolist(), strict=True)
        return list(pairs), len(values)


@dataclass(frozen=True, slots=True, eq=False)
class CodedNumbers:
    """Fractions, and integers that float64 does not have: `codes` [N], -1 for none, into `numbers`.

    `numbers` are distinct and ascending. All are compared exactly, as Python does.
    """

    codes: NDArray[np.int64]
    numbers: Sequence[int | float]

    @classmethod
    def of(cls, codes: NDArray[np.int64], values: Sequence[int | float]) -> CodedNumbers:
        """From codes into values of which some may be equal, as 1 and 1.0 are."""
        numbers = sorted(set(values))
        places = {number: place for place, number in enumerate(numbers)}
        return cls(np.array([*(places[value] for value in values), -1])[codes], numbers)

    @property
    def present(self) -> Mask:
        """As `Part` has it."""
        return self.codes >= 0

    def any_of(self, values: Sequence[int | float]) -> Mask:
        """As `Part` has it."""
        wanted = set(values)
        return self._spread([number in wanted for number in self.numbers])

    def compare(self, operator: Operator, bound: int | float) -> Mask:
        """As `Part` has it."""
        return self._spread([_OF_NUMBERS[operator](number, bound) for number in self.numbers])

    def _spread(self, of_numbers: Sequence[bool]) -> Mask:
        """What holds of the distinct numbers, for each product."""
        mask: Mask = np.array([*of_numbers, False])[self.codes]
        return mask

    def selected(self, among: Mask | None) -> NumberValues:
        """As `NumberPart` has it."""
        codes = self.codes if among is None else self.codes[among]
        return np.array(self.numbers, dtype=np.float64)[codes[codes >= 0]]

    def top(self, among: Mask | None, limit: int) -> tuple[list[tuple[Scalar, int]], int]:
        """As `Part` has it; of equally frequent values the smallest comes first."""
        codes = self.codes if among is None else self.codes[among]
        there, counts = np.unique(codes[codes >= 0], return_counts=True)
        best = np.argsort(-counts, kind="stable")[:limit].tolist()
        return [(self.numbers[there[at]], int(counts[at])) for at in best], len(there)


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One attribute of all products: its `type` as in `Items.attribute_types`, and its parts."""

    type: str
    parts: Mapping[Kind, Part]

    @property
    def present(self) -> Mask:
        """The products that have the attribute: bool [N]."""
        first, *others = (part.present for part in self.parts.values())
        for other in others:
            first = first | other
        return first
