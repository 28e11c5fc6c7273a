from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.columns import Coded
from index.facets import Facet, count_facet
from index.items import Item, Items, write_items

ROWS: list[dict[str, Any]] = [
    {"colour": "black", "price": 10.0, "year": 2020, "sale": True, "size": "M"},
    {"colour": "navy", "price": 20.0, "year": 2021, "sale": False, "size": 42},
    {"colour": "black", "price": 60.0, "year": 2021, "size": 42.0},
    {"colour": "red", "year": 2026, "sale": True, "size": True},
    {"price": 110.0, "year": 2021},
]


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Items:
    return _items(ROWS, tmp_path_factory.mktemp("facets"))


def _items(rows: list[dict[str, Any]], folder: Path) -> Items:
    items = (Item(f"{n}", "", "", ("1.jpg",), row) for n, row in enumerate(rows))
    write_items(items, folder / "items.parquet")
    return Items(folder / "items.parquet")


def facet(items: Items, name: str, among: list[int] | None = None, limit: int = 10) -> Facet:
    column = items.column(name)
    assert column is not None
    mask = None if among is None else np.isin(np.arange(len(items)), among)
    return count_facet(column, mask, limit)


def test_values_by_how_often_they_are_there(items: Items) -> None:
    colours = facet(items, "colour")
    assert colours == Facet(
        type="string",
        missing=1,
        distinct=3,
        values=(("black", 2), ("navy", 1), ("red", 1)),  # of equals, the catalogue's first
        spread=None,
    )
    assert facet(items, "colour", limit=1).values == (("black", 2),)
    assert facet(items, "colour", limit=1).distinct == 3
    assert facet(items, "year").values == ((2021, 3), (2020, 1), (2026, 1))
    assert facet(items, "sale").values == ((True, 2), (False, 1))
    assert facet(items, "sale").missing == 2


def test_only_some_products_are_counted(items: Items) -> None:
    some = facet(items, "colour", among=[1, 3, 4])
    assert (some.values, some.missing, some.distinct) == ((("navy", 1), ("red", 1)), 1, 2)
    assert facet(items, "colour", among=[]) == Facet("string", 0, 0, (), None)
    assert facet(items, "price", among=[3]) == Facet("double", 1, 0, (), None)


def test_a_column_of_several_types(items: Items) -> None:
    sizes = facet(items, "size")
    assert sizes.values == ((42.0, 2), ("M", 1), (True, 1))
    assert [type(value) for value, _ in sizes.values] == [float, str, bool]
    assert (sizes.type, sizes.missing, sizes.distinct) == ("mixed", 1, 3)
    assert sizes.spread is not None
    assert (sizes.spread.smallest, sizes.spread.largest) == (42.0, 42.0)


def test_numbers_are_spread_over_ten_buckets(items: Items) -> None:
    spread = facet(items, "price").spread
    assert spread is not None
    assert (spread.smallest, spread.largest) == (10.0, 110.0)
    assert [bucket.low for bucket in spread.histogram] == pytest.approx(list(range(10, 110, 10)))
    assert [bucket.high for bucket in spread.histogram] == pytest.approx(list(range(20, 120, 10)))
    assert [bucket.count for bucket in spread.histogram] == [1, 1, 0, 0, 0, 1, 0, 0, 0, 1]
    one = facet(items, "year", among=[0]).spread
    assert one is not None
    assert [(b.low, b.high, b.count) for b in one.histogram] == [(2020.0, 2020.0, 1)]


@pytest.mark.parametrize(
    "values",
    [
        [-1.7e308, 0.0, 1.7e308],
        [5e-324, 0.0, 1e-323],
        [2**63 - 1, 2**63 - 2, -(2**63)],
        [2**62, 2**62 + 1, 2**62 + 2],
        [-1.0, -1.0, -1.0],
        [29.95] * 5,
        [49.9] * 3,
    ],
)
def test_numbers_that_are_hard_to_spread(values: list[Any], tmp_path: Path) -> None:
    spread = facet(_items([{"n": value} for value in values], tmp_path), "n").spread
    assert spread is not None
    assert (spread.smallest, spread.largest) == (min(values), max(values))
    assert sum(bucket.count for bucket in spread.histogram) == len(values)
    ends = [end for bucket in spread.histogram for end in (bucket.low, bucket.high)]
    assert (ends[0], ends[-1]) == (float(min(values)), float(max(values)))
    assert ends == sorted(ends)
    if len(set(values)) == 1:
        assert len(spread.histogram) == 1


def test_many_products_are_counted_like_python_counts_them(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    brands = [f"brand {n}" for n in (chance.zipf(1.3, 3000) % 400).tolist()]
    items = _items([{"brand": brand, "other": n} for n, brand in enumerate(brands)], tmp_path)
    column = items.column("brand")
    assert column is not None
    part = column.parts["string"]
    assert isinstance(part, Coded)
    assert part.codes.dtype == np.int16, "no more bytes than the values need"
    expected = Counter(brands)
    got = facet(items, "brand", limit=500)
    assert dict(got.values) == expected
    assert [count for _, count in got.values] == sorted(expected.values(), reverse=True)
    assert items.column("brand") is column, "made once"
    assert items.column("nothing") is None
