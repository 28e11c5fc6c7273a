"""Filters: which products a search may find, by their attributes.

A filter is a JSON object. Its keys are attributes, and all of them must hold:

    {"colour": ["black", "navy"], "price": {"gte": 20, "lt": 50}, "sale": true}

==============================  ==================================================================
a value                         the attribute is that value
a list of values                it is one of them; of an empty list it is none
`{"gt": v}`, `gte, lt, lte`     it lies on that side: numbers, or strings by code point, so that
                                dates written 2026-11-21 compare as dates; several bounds all hold
`{"exists": true}`, `false`     the product has the attribute, or lacks it
`{"not": …}`                    everything that the condition inside does not match
==============================  ==================================================================

Filters are combined by `{"and": [filter, …]}`, `{"or": [filter, …]}` and `{"not": filter}`, which
may stand beside attributes. `{}` and an empty `and` match every product, an empty `or` none.

A product that lacks an attribute matches no value and no bound, and so it matches every negation
of one, as in Elasticsearch: `{"colour": {"not": "black"}}` finds also what has no colour, and
`{"colour": {"not": "black", "exists": true}}` does not.

An attribute of type `strings` has several values, and a value, a list or a bound matches a product
if it does any of them; of two bounds each may match another one. What is inside `not` likewise, so
`{"sizes": {"not": "M"}}` finds the products of whose sizes none is M.

An attribute is compared with values of its own type: `strings` with strings, `int64` and `double`
with numbers. One of `mixed` type takes any: a value then matches those of its own kind. An
attribute named `and`, `or` or `not` is written `attributes.and`; the prefix may stand before any
name and is taken off once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from index.columns import Column, Kind, Mask, Operator
from model.product import Scalar


@dataclass(frozen=True, slots=True)
class All:
    """Every one of these matches; with none of them, everything does."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """At least one of these matches."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """This does not match."""

    filter: Filter


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The attribute is one of these values, which are all of one kind."""

    attribute: str
    kind: Kind  # also because Python takes 1 and True for equal
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """The attribute lies on one side of a value."""

    attribute: str
    kind: Kind
    operator: Operator
    value: Scalar


@dataclass(frozen=True, slots=True)
class Exists:
    """The product has the attribute."""

    attribute: str


#: A filter that was parsed. It can be hashed: equal filters match the same products.
Filter = All | Some | Not | AnyOf | Bound | Exists


class Columns(Protocol):
    """Products by column, as `Items` are."""

    def __len__(self) -> int:
        """How many products."""

    def column(self, name: str) -> Column | None:
        """One attribute; None if no product has it."""


def evaluate(filter: Filter, columns: Columns) -> Mask:
    """Which products match: bool [N], which the caller may write to.

    An attribute, or a kind of value, that the columns do not have is one that no product has.
    """
    match filter:
        case All(filters):
            mask = np.ones(len(columns), dtype=np.bool_)
            for one in filters:
                mask &= evaluate(one, columns)
            return mask
        case Some(filters):
            mask = np.zeros(len(columns), dtype=np.bool_)
            for one in filters:
                mask |= evaluate(one, columns)
            return mask
        case Not(inner):
            return ~evaluate(inner, columns)
    column = columns.column(filter.attribute)
    if isinstance(filter, Exists):
        return _none(columns) if column is None else column.present.copy()
    part = None if column is None else column.parts.get(filter.kind)
    if part is None:
        return _none(columns)
    if isinstance(filter, AnyOf):
        return part.any_of(filter.values)
    return part.compare(filter.operator, filter.value)


def _none(columns: Columns) -> Mask:
    return np.zeros(len(columns), dtype=np.bool_)
