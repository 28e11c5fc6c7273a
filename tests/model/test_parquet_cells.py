from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.catalogue import read_catalogue
from model.feed import read_feed


def cells_of(tmp_path: Path, column: pa.Array) -> list[object]:
    path = tmp_path / "feed.parquet"
    pq.write_table(pa.table({"cell": column}), path)
    return [row.cells["cell"] for row in read_feed(path).rows]


def same(found: list[object], expected: list[object]) -> bool:
    """Equal in value and in type: 5 is not 5.0 here."""
    return repr(found) == repr(expected)


PRICES = pa.decimal128(10, 2)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["19.99", "5.00", None, "-0.10"], PRICES, [19.99, 5.0, None, -0.1]),
        (["19.99"], pa.decimal256(60, 2), [19.99]),
        (["7", None, "-3"], pa.decimal128(5, 0), [7, None, -3]),
        # Two ids that are one as floats, as Spark and Oracle export them.
        (
            ["9007199254740992", "9007199254740993"],
            pa.decimal128(38, 10),
            [9007199254740992, 9007199254740993],
        ),
        (["123456789012345678901"], pa.decimal128(38, 0), [123456789012345678901]),
    ],
)
def test_decimals_are_numbers(
    values: list[str | None], kind: pa.DataType, expected: list[object], tmp_path: Path
) -> None:
    column = pa.array([None if value is None else Decimal(value) for value in values], kind)
    assert same(cells_of(tmp_path, column), expected)
    assert same(cells_of(tmp_path, column.dictionary_encode()), expected)


def test_bytes_that_are_text(tmp_path: Path) -> None:
    values = ["Été".encode(), None, b"", b"\xff\xd8\xff", b"a\0b"]
    found: list[object] = ["Été", None, "", [[]], [[]]]  # as `model.feed.Rows` keeps the others
    for kind in (pa.binary(), pa.large_binary()):
        column = pa.array(values, kind)
        assert cells_of(tmp_path, column) == found
        assert cells_of(tmp_path, column.dictionary_encode()) == found
        assert cells_of(tmp_path, pa.array([values], pa.list_(kind))) == [found]


def test_narrow_floats_are_the_numbers_that_were_written(tmp_path: Path) -> None:
    single = pa.array([99.95, 5.1, None, 2011.0, 1e-7], pa.float32())
    assert same(cells_of(tmp_path, single), [99.95, 5.1, None, 2011.0, 1e-7])
    half = pa.array([np.float16(99.9), None], pa.float16())
    assert same(cells_of(tmp_path, half), [99.9, None])
    double = pa.array([99.94999694824219, 0.1 + 0.2], pa.float64())
    assert same(cells_of(tmp_path, double), [99.94999694824219, 0.30000000000000004])
    odd = cells_of(tmp_path, pa.array([math.inf, -math.inf, math.nan], pa.float32()))
    assert same(odd, [math.inf, -math.inf, math.nan])


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (pa.list_(PRICES), [Decimal("1.50"), None], [1.5, None]),
        (pa.large_list(pa.float32()), [99.95], [99.95]),
        (pa.list_(pa.float32(), 2), [99.95, None], [99.95, None]),
        (pa.list_(pa.list_(pa.float32())), [[99.95], None], [[99.95], None]),
        (
            pa.struct([("from", PRICES), ("to", pa.float32()), ("in", pa.string())]),
            {"from": Decimal("1.50"), "to": 99.95, "in": None},
            {"from": 1.5, "to": 99.95, "in": None},
        ),
        (pa.map_(pa.string(), PRICES), [("eu", Decimal("1.50"))], [["eu", 1.5]]),
        (pa.map_(pa.string(), pa.int64()), [("eu", 1)], [["eu", 1]]),
    ],
    ids=str,
)
def test_so_are_those_inside(
    kind: pa.DataType, value: Any, expected: object, tmp_path: Path
) -> None:
    assert same(cells_of(tmp_path, pa.array([value, None], kind)), [expected, None])


def test_text_that_is_not_utf8_beside_a_price(tmp_path: Path) -> None:
    names = pa.array([b"fine", b"caf\xe9"], pa.binary()).view(pa.string())
    prices = pa.array([99.95, 5.1], pa.float32())
    path = tmp_path / "feed.parquet"
    cells = pa.StructArray.from_arrays([names, prices], ["name", "price"])
    pq.write_table(pa.table({"id": ["a", "b"], "offer": cells}), path)
    feed = read_feed(path)
    assert [row.cells["offer"] for row in feed.rows] == [{"name": "fine", "price": 99.95}]
    assert [(bad.line, bad.id, bad.code) for bad in feed.bad] == [(2, "b", "wrong_encoding")]


def test_a_price_is_an_attribute_that_compares(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    table = pa.table(
        {
            "id": ["1", "2"],
            "image": ["a.jpg"] * 2,
            "title": ["hat", "scarf"],
            "price": pa.array([Decimal("49.95"), Decimal("50.00")], PRICES),
            "was": pa.array([99.95, None], pa.float32()),
            "stock": pa.array([Decimal(3), Decimal(1 << 63)], pa.decimal128(20, 0)),
            "__index_level_0__": [4, 7],  # pandas
        }
    )
    path = tmp_path / "feed.parquet"
    pq.write_table(table, path)
    with read_catalogue(path, check_images=False) as catalogue:
        found = [product.attributes for product in catalogue.products]
    assert found == [
        {"price": 49.95, "was": 99.95, "stock": 3},
        {"price": 50.0, "stock": "9223372036854775808"},  # as an int of JSON that is too large
    ]
