"""Attributes with several values: kept, filtered and counted, in a snapshot and on top of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from index.build import build
from index.compact import compact
from index.delta_records import Delete, Put
from index.facets import count_facet
from index.filter_parser import FilterError, parse_filter
from index.filters import evaluate
from index.info import describe
from index.items import Item, Items, write_items
from index.live import LiveSnapshot
from index.live_index import LiveIndex
from model.catalogue import read_catalogue
from model.engine import Engine
from model.product import ColumnMapping

MakePut = Callable[..., Put]
SIZES = ["S", "M", "L", "XL", "one size", "Größe 7"]
ASKED: list[Any] = [
    "M",
    ["M", "XL"],
    [],
    "never",
    {"gt": "M"},
    {"gte": "L", "lt": "N"},
    {"not": "M"},
    {"not": ["S", "L"], "exists": True},
    {"exists": False},
]


def holds(values: Sequence[Any], condition: Any) -> bool:
    """The same language once more, of an attribute with these values."""
    if isinstance(condition, dict):
        for operator, operand in condition.items():
            if operator == "exists":
                good = bool(values) == operand
            elif operator == "not":
                good = not holds(values, operand)
            else:
                good = any(
                    {"gt": one > operand, "gte": one >= operand, "lt": one < operand}[operator]
                    for one in values
                    if isinstance(one, str)
                )
            if not good:
                return False
        return True
    wanted = condition if isinstance(condition, list) else [condition]
    return any(one in wanted for one in values)


def values_of(item: Item, name: str) -> tuple[Any, ...]:
    """A product's values of an attribute."""
    value = item.attributes.get(name, ())
    return value if isinstance(value, tuple) else (value,)


def strings_in(rows: dict[int, tuple[Any, ...]]) -> Counter[str]:
    """How many of some products have each string."""
    return Counter(one for values in rows.values() for one in values if isinstance(one, str))


def check(items: Any, name: str, asked: Sequence[Any] = ASKED) -> None:
    """Filters and facets say what the products have."""
    live = np.ones(len(items), dtype=np.bool_) if items.live is None else items.live
    rows = {row: values_of(items[row], name) for row in np.flatnonzero(live).tolist()}
    for condition in asked:
        mask = evaluate(parse_filter({name: condition}, items.attribute_types), items) & live
        expected = [row for row, values in rows.items() if holds(values, condition)]
        assert np.flatnonzero(mask).tolist() == expected, condition
    column = items.column(name)
    facet = count_facet(column, items.live, 1000)
    assert facet.type == column.type == items.attribute_types[name]
    assert {value: n for value, n in facet.values if isinstance(value, str)} == strings_in(rows)
    some = live & (np.arange(len(live)) % 2 == 0)
    found = dict(count_facet(column, some, 1000).values)
    counts = strings_in({row: values for row, values in rows.items() if some[row]})
    assert {value: n for value, n in found.items() if isinstance(value, str)} == counts


def _items(path: Path, attributes: Sequence[dict[str, Any]]) -> Items:
    write_items((Item(f"{n}", "", "", ("1.jpg",), row) for n, row in enumerate(attributes)), path)
    return Items(path)


def _rows(count: int = 300) -> list[dict[str, Any]]:
    chance = random.Random(8)
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        sizes = tuple(chance.sample(SIZES, chance.randrange(len(SIZES))))
        row: dict[str, Any] = {"sizes": sizes} if sizes else {}
        if chance.random() < 0.7:
            row["either"] = chance.choice([sizes, "M"]) or "L"
            row["mixed"] = chance.choice([sizes, "M", 42, 1.5, True]) or 7
        rows.append(row)
    return rows


def test_lists_in_a_file(tmp_path: Path) -> None:
    rows = _rows()
    items = _items(tmp_path / "items.parquet", rows)
    types = {"sizes": "strings", "either": "strings", "mixed": "mixed"}
    assert items.attribute_types == types
    for row, item in zip(rows, items, strict=True):
        if isinstance(row.get("either"), str):
            row["either"] = (row["either"],)  # a string counts as a list of one
        assert item.attributes == row
    table = pq.read_table(tmp_path / "items.parquet")
    lists = [list(row["sizes"]) if "sizes" in row else None for row in rows]
    assert table.column("attributes.sizes").to_pylist() == lists
    for name in types:
        check(items, name)


def test_what_a_list_is_not_compared_with(tmp_path: Path) -> None:
    items = _items(tmp_path / "items.parquet", [{"sizes": ("S", "M")}])
    with pytest.raises(FilterError, match=r"38 is a number, and .sizes. holds strings"):
        parse_filter({"sizes": 38}, items.attribute_types)


def test_equally_frequent_values_and_a_limit(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"sizes": ("M", "S")},
        {"sizes": ("L", "S")},
        {"sizes": ("M",)},
        {},
    ]
    items = _items(tmp_path / "items.parquet", rows)
    column = items.column("sizes")
    assert column is not None
    facet = count_facet(column, None, 2)
    assert (facet.values, facet.distinct, facet.missing) == ((("M", 2), ("S", 2)), 3, 1)
    assert facet.spread is None


@pytest.fixture
def sized_root(demo_catalogue: Path, engine: Engine, tmp_path: Path) -> Path:
    """A snapshot of 24 products of a feed with lists."""
    lines = (demo_catalogue / "train.csv").read_text(encoding="utf-8").splitlines()[:25]
    sizes = ["sizes", *("|".join(SIZES[: n % 4]) for n in range(24))]
    path = tmp_path / "feed.tsv"
    path.write_text("\n".join(f"{a},{b}" for a, b in zip(lines, sizes, strict=True)), "utf-8")
    columns = ColumnMapping(lists=("sizes",))
    root = tmp_path / "snapshots"
    pictures = demo_catalogue / "images.tar"
    with read_catalogue(path, images=pictures, columns=columns) as catalogue:
        build(catalogue, engine, root, progress=False)
    return root


def _compacted(live: LiveIndex, root: Path) -> LiveSnapshot:
    compact(root)
    assert live.refresh()
    return live.latest


def test_lists_on_top_of_lists(sized_root: Path, make_put: MakePut, engine: Engine) -> None:
    with LiveIndex.open(sized_root) as live:
        base = live.latest.base
        assert describe(base)["attributes"]["sizes"] == "strings"
        check(base.items, "sizes")
        ids = base.ids
        many = tuple(f"size {n}" for n in range(200))  # more values than there are products
        puts = [
            make_put("a", sizes=("XL", "M")),
            make_put("b", sizes="M"),
            make_put("many", sizes=many),
            make_put(ids[3], sizes=("new",)),
            make_put(ids[5]),
        ]
        latest = live.exchange([*puts, Delete(ids[7])])[1]
        assert latest.item(latest.row_of("a")).attributes == {"sizes": ("XL", "M")}
        assert latest.item(latest.row_of("b")).attributes == {"sizes": ("M",)}
        check(latest.items, "sizes", [*ASKED, "new", "size 7"])
        before = {item.id: item.attributes for item in latest.items}
    with LiveIndex.open(sized_root) as live:  # from the log
        assert {item.id: item.attributes for item in live.latest.items} == before
        latest = _compacted(live, sized_root)
        assert latest.base.name == "00000002"
        assert {item.id: item.attributes for item in latest.items} == before
        check(latest.items, "sizes")


@pytest.mark.parametrize(
    ("values", "type"),
    [
        ([("S", "M"), "M", ("L",)], "strings"),
        ([("S", "M"), 7, "M", 7.5, True, ("M",)], "mixed"),
        ([("S", "M"), 2**53 + 1], "mixed"),
    ],
)
def test_lists_on_top_of_a_catalogue_without(
    values: list[Any], type: str, own_root: Path, make_put: MakePut
) -> None:
    with LiveIndex.open(own_root) as live:
        puts = [make_put(f"n{n}", sizes=value) for n, value in enumerate(values)]
        latest = live.exchange([*puts, make_put("c", colour=("brass", "red"))])[1]
        for name, wanted in (("sizes", type), ("colour", "strings")):
            assert latest.items.attribute_types[name] == wanted
            check(latest.items, name, [*ASKED, "red", "brass"])
        latest = _compacted(live, own_root)
        for name, wanted in (("sizes", type), ("colour", "strings")):
            assert latest.items.attribute_types[name] == wanted
            check(latest.items, name, [*ASKED, "red", "brass"])
