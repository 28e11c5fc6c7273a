"""Facets: how the values of an attribute are spread over some products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from index.columns import Column, Mask, NumberPart, NumberValues
from model.product import Scalar

BUCKETS = 10


@dataclass(frozen=True, slots=True)
class Bucket:
    """Products whose number is at least `low` and below `high`, or in the last bucket at most."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Spread:
    """The smallest and the largest number, and up to ten buckets of one width between them."""

    smallest: int | float
    largest: int | float
    histogram: tuple[Bucket, ...]


@dataclass(frozen=True, slots=True)
class Facet:
    """One attribute over some products.

    Attributes:
        type: as in `Items.attribute_types`.
        missing: how many of the products lack the attribute.
        distinct: how many different values there are.
        values: the most frequent ones, with how many products have each. One with several values
            is counted for each of them.
        spread: of the numbers, None where there are none.
    """

    type: str
    missing: int
    distinct: int
    values: tuple[tuple[Scalar, int], ...]
    spread: Spread | None


def count_facet(column: Column, among: Mask | None, limit: int) -> Facet:
    """Count one attribute.

    Args:
        column: of N products.
        among: bool [N], the products to count; all by default.
        limit: at most so many values are listed.
    """
    present = column.present
    missing = np.count_nonzero(~present if among is None else among & ~present)
    tops = [part.top(among, limit) for part in column.parts.values()]
    values = sorted((one for top, _ in tops for one in top), key=lambda pair: -pair[1])[:limit]
    numbers = cast(NumberPart | None, column.parts.get("number"))
    return Facet(
        type=column.type,
        missing=int(missing),
        distinct=sum(distinct for _, distinct in tops),
        values=tuple(values),
        spread=None if numbers is None else _spread(numbers.selected(among)),
    )


def _spread(values: NumberValues) -> Spread | None:
    if not len(values):
        return None
    smallest, largest = values.min().item(), values.max().item()
    # Weighted ends, as the distance of two floats may be beyond the largest one.
    steps = np.linspace(0, 1, BUCKETS + 1)
    edges = float(smallest) * (1 - steps) + float(largest) * steps
    edges = np.unique(edges.clip(float(smallest), float(largest)))  # rounding leads beyond them
    count = max(1, len(edges) - 1)
    places = np.searchsorted(edges, values, side="right") - 1
    counts = np.bincount(places.clip(0, count - 1), minlength=count)
    ends = edges.tolist()
    buckets = [
        Bucket(ends[n], ends[min(n + 1, len(ends) - 1)], int(counts[n])) for n in range(count)
    ]
    return Spread(smallest, largest, tuple(buckets))
