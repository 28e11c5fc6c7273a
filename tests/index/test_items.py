from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.items import (
    Item,
    Items,
    _contiguous,
    check_items,
    count_items,
    others_have,
    write_items,
)
from model.attributes import attribute_types
from model.errors import SnapshotError

ITEMS = [
    Item("a-1", "Red dress", "Red dress. Silk.", ("1.jpg", "2.jpg"), {"colour": "red", "size": 42}),
    Item("ü|2", "", "Hat, “wide”", ("x/3.png",), {"colour": "blue", "size": "M", "sale": True}),
    Item("3", "Shoe", "Shoe\nblack", ("4.webp",), {"price": 19.0, "stock": 3, "sale": False}),
    Item("4", "Bag", "Bag", ("5.jpg",), {"size": 42.0, "the.dotted": "x", "size ": "y"}),
]


@pytest.fixture
def items(tmp_path: Path) -> Items:
    write_items(ITEMS, tmp_path / "items.parquet")
    return Items(tmp_path / "items.parquet")


def test_items_come_back_as_they_were(items: Items) -> None:
    assert list(items) == ITEMS
    assert len(items) == 4
    assert items.ids == ["a-1", "ü|2", "3", "4"]
    assert items[0].views == 2


def test_every_attribute_keeps_its_type(items: Items) -> None:
    for item, original in zip(items, ITEMS, strict=True):
        kinds = {name: type(value) for name, value in item.attributes.items()}
        assert kinds == {name: type(value) for name, value in original.attributes.items()}
    assert items.attribute_types == {
        "colour": "string",
        "size": "mixed",
        "sale": "bool",
        "price": "double",
        "stock": "int64",
        "the.dotted": "string",
        "size ": "string",
    }


@pytest.mark.parametrize(
    ("values", "type"),
    [
        ([20, 19.99], "double"),
        ([20, 2**53], "int64"),
        ([19.99, 2**53 + 1], "mixed"),
        ([2**53 + 2, 19.99], "double"),
        ([20, 19.99, "n/a"], "mixed"),
    ],
)
def test_whole_numbers_among_fractions(
    values: list[int | float | str], type: str, tmp_path: Path
) -> None:
    """As a feed of JSON has prices; a column of writes is typed the same."""
    rows = [
        Item(str(row), "t", "t", ("1.jpg",), {"price": value}) for row, value in enumerate(values)
    ]
    write_items(rows, tmp_path / "items.parquet")
    read = Items(tmp_path / "items.parquet")
    assert read.attribute_types == attribute_types(row.attributes for row in rows)
    assert read.attribute_types == {"price": type}
    assert [item.attributes["price"] for item in read] == values


def test_whether_others_have_an_attribute(items: Items, tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    assert others_have(path, "colour", {"a-1"})
    assert not others_have(path, "colour", {"a-1", "ü|2"})
    assert not others_have(path, "the.dotted", {"4"})
    assert others_have(path, "the.dotted", {"3"})


def test_rows_by_id(items: Items) -> None:
    assert [items.row_of(id) for id in ("4", "a-1")] == [3, 0]
    with pytest.raises(KeyError):
        items.row_of("5")


def test_items_without_any_attribute(tmp_path: Path) -> None:
    plain = [Item("1", "t", "t", ("1.jpg",), {})]
    write_items(plain, tmp_path / "items.parquet")
    assert list(Items(tmp_path / "items.parquet")) == plain


def test_other_tools_see_plain_columns(items: Items, tmp_path: Path) -> None:
    table = pq.read_table(tmp_path / "items.parquet")
    assert table.column("attributes.price").to_pylist() == [None, None, 19.0, None]


def test_many_products_are_the_same_file_each_time(tmp_path: Path) -> None:
    many = [
        Item(f"id-{n}", f"t{n}", f"text {n}", (f"{n}.jpg",), {"price": n / 4, "n": n})
        for n in range(5000)
    ]
    write_items(many, tmp_path / "a")
    write_items(iter(many), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read = Items(tmp_path / "a")
    assert read[4321] == many[4321]
    assert read.row_of("id-4999") == 4999


def test_a_file_in_several_groups_of_rows_reads_the_same(items: Items, tmp_path: Path) -> None:
    pq.write_table(pq.read_table(tmp_path / "items.parquet"), tmp_path / "groups", row_group_size=1)
    read = Items(tmp_path / "groups")
    assert list(read) == ITEMS
    assert read.attribute_types == items.attribute_types


@pytest.mark.parametrize("make", [str, lambda value: [value, value]])
def test_strings_in_several_chunks_become_an_array_that_may_pass_2_gib(
    make: Callable[[str], object],
) -> None:
    """Which is what Arrow splits strings at: of more it makes chunks that no array has room for."""
    chunks = [[make("a"), None], [make("b")]]
    column = pa.chunked_array([pa.array(chunk) for chunk in chunks])
    for one in (column, column.slice(0, 1), column.slice(0, 0)):
        array = _contiguous(one)
        assert array.to_pylist() == one.to_pylist()
        strings = array.flatten() if pa.types.is_list(array.type) else array
        assert strings.type == pa.large_string()


def test_what_is_no_items_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(SnapshotError, match="junk is damaged"):
        Items(tmp_path / "junk")
    with pytest.raises(SnapshotError, match="missing is damaged"):
        Items(tmp_path / "missing")
    table = pq.read_table(_written(tmp_path)).drop_columns(["title"])
    pq.write_table(table, tmp_path / "less")
    with pytest.raises(SnapshotError, match="less is damaged"):
        Items(tmp_path / "less")


def test_damage_in_the_middle_is_found(tmp_path: Path) -> None:
    items = [Item(f"{n}", "", f"{n * n} " * 9, ("1.jpg",), {}) for n in range(5000)]
    write_items(items, tmp_path / "items.parquet")
    check_items(tmp_path / "items.parquet")
    data = bytearray((tmp_path / "items.parquet").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    (tmp_path / "items.parquet").write_bytes(data)
    assert count_items(tmp_path / "items.parquet") == 5000
    with pytest.raises(SnapshotError, match=r"items\.parquet is damaged"):
        check_items(tmp_path / "items.parquet")


@pytest.mark.parametrize("heavy", ["title", "text", "images", "attributes"])
def test_groups_weigh_little_wherever_the_weight_is(tmp_path: Path, heavy: str) -> None:
    light = [Item(f"{n}", "", "", ("1.jpg",), {}) for n in range(9000)]
    much: dict[str, Any] = {
        "title": "x" * 60_000,
        "text": "y" * 60_000,
        "images": ("z" * 60_000,),
        "attributes": {"care": "c" * 60_000},
    }
    more = [replace(item, id=f"heavy {item.id}", **{heavy: much[heavy]}) for item in light[:420]]
    write_items([*light, *more], tmp_path / "items.parquet")
    found = pq.read_metadata(tmp_path / "items.parquet")
    groups = [found.row_group(n).num_rows for n in range(found.num_row_groups)]
    assert groups == [8192, 9000 - 8192 + 140, 140, 140]  # 140 have 8 Mi characters


def test_an_id_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    write_items([ITEMS[0], ITEMS[0]], tmp_path / "twice")
    with pytest.raises(SnapshotError, match="names an id twice"):
        Items(tmp_path / "twice")
    with pytest.raises(SnapshotError, match="names an id twice"):
        check_items(tmp_path / "twice")


def _written(folder: Path) -> Path:
    write_items(ITEMS, folder / "items.parquet")
    return folder / "items.parquet"


def test_heavy_products_are_written_few_at_a_time(tmp_path: Path) -> None:
    items = [
        Item(f"{n}", "", f"{n} " * 40_000, ("1.jpg",), {"n": n} if n < 190 else {"late": "x"})
        for n in range(200)
    ]
    write_items(iter(items), tmp_path / "items.parquet")
    assert pq.read_metadata(tmp_path / "items.parquet").num_row_groups > 2
    assert list(Items(tmp_path / "items.parquet")) == items
    check_items(tmp_path / "items.parquet")
    assert others_have(tmp_path / "items.parquet", "late", {f"{n}" for n in range(199)})
    assert not others_have(tmp_path / "items.parquet", "late", {f"{n}" for n in range(190, 200)})
