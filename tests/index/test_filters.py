from __future__ import annotations

import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from index.filter_parser import (
    MAX_CHARACTERS,
    MAX_CONDITIONS,
    MAX_VALUES,
    FilterError,
    parse_filter,
)
from index.filters import evaluate
from index.items import Item, Items, write_items
from index.masks import Masks

Row = dict[str, Any]

COLOURS = ["black", "navy", "Été", "", "zebra", "👗"]
MIXED = ["M", "42", 42, 42.5, 1, True, False, "true", -1]
KINDS = {"colour": "string", "price": "number", "stock": "number", "sale": "bool", "and": "string"}


def _rows(count: int = 400) -> list[Row]:
    """Products with every attribute sometimes missing."""
    chance = random.Random(5)
    whole = [0, 1, -1, 7, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)]
    columns = {
        "colour": COLOURS,
        "price": [0.0, 9.99, 20.0, 19.999, -3.5, 1e300, 2.0**53],
        "stock": whole,
        "sale": [True, False],
        "size": MIXED,
        "and": ["or", "x"],
    }
    rows = [
        {name: chance.choice(values) for name, values in columns.items() if chance.random() < 0.8}
        for _ in range(count)
    ]
    return rows


ROWS = _rows()


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Items:
    path = tmp_path_factory.mktemp("filters") / "items.parquet"
    write_items((Item(f"{n}", "", "", ("1.jpg",), row) for n, row in enumerate(ROWS)), path)
    return Items(path)


def found(items: Items, raw: object) -> list[int]:
    mask = evaluate(parse_filter(raw, items.attribute_types), items)
    assert mask.dtype == np.bool_
    return np.flatnonzero(mask).tolist()


# The same language once more, as plainly as it can be said.


def kind(value: object) -> str:
    return {bool: "bool", str: "string", int: "number", float: "number"}[type(value)]


def comparable(name: str, value: Any) -> Any:
    return float(value) if name in ("price", "size") and kind(value) == "number" else value


def holds(name: str, row: Row, condition: Any) -> bool:
    has = name in row
    value = comparable(name, row.get(name, ""))
    if isinstance(condition, dict):
        for operator, operand in condition.items():
            if operator == "exists":
                good = has == operand
            elif operator == "not":
                good = not holds(name, row, operand)
            else:
                operand = comparable(name, operand)
                good = has and kind(value) == kind(operand)
                good = good and {
                    "gt": lambda a, b: a > b,
                    "gte": lambda a, b: a >= b,
                    "lt": lambda a, b: a < b,
                    "lte": lambda a, b: a <= b,
                }[operator](value, operand)
            if not good:
                return False
        return True
    wanted = condition if isinstance(condition, list) else [condition]
    same = [comparable(name, one) for one in wanted if has and kind(one) == kind(value)]
    return value in same


def matches(filter: Mapping[str, Any], row: Row) -> bool:
    for key, value in filter.items():
        if key == "and":
            good = all(matches(one, row) for one in value)
        elif key == "or":
            good = any(matches(one, row) for one in value)
        elif key == "not":
            good = not matches(value, row)
        else:
            good = holds(key.removeprefix("attributes."), row, value)
        if not good:
            return False
    return True


NUMBERS = st.one_of(
    st.sampled_from([0, 1, 7, 9.99, 20, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 6.5, 1e300, -3.5]),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
STRINGS = st.one_of(st.sampled_from([*COLOURS, "M", "42", "or"]), st.text(max_size=3))
BOOLS = st.booleans()


def conditions(name: str) -> st.SearchStrategy[Any]:
    own = {"string": STRINGS, "number": NUMBERS, "bool": BOOLS}.get(
        KINDS.get(name, ""), st.one_of(st.sampled_from(MIXED), STRINGS, NUMBERS, BOOLS)
    )
    simple = st.one_of(own, st.lists(own, max_size=4))
    operators: dict[str, st.SearchStrategy[Any]] = {"exists": BOOLS}
    if KINDS.get(name) != "bool":
        ordered = own if name in KINDS else st.one_of(STRINGS, NUMBERS)
        operators |= dict.fromkeys(("gt", "gte", "lt", "lte"), ordered)
    some = st.fixed_dictionaries({}, optional=operators).filter(bool)
    negated = st.one_of(simple, some).map(lambda inner: {"not": inner})
    return st.one_of(simple, some, negated)


ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "attributes.and" if name == "and" else name: conditions(name) for name in (*KINDS, "size")
    },
)
FILTERS = st.recursive(
    ATTRIBUTES,
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "and": st.lists(inner, max_size=3),
            "or": st.lists(inner, max_size=3),
            "not": inner,
            "attributes.colour": conditions("colour"),
        },
    ),
    max_leaves=5,
)


@settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(raw=FILTERS)
def test_a_filter_finds_what_plain_python_finds(raw: dict[str, Any], items: Items) -> None:
    try:
        rows = found(items, raw)
    except FilterError as error:
        assume("nested" not in str(error))
        raise
    assert rows == [n for n, row in enumerate(ROWS) if matches(raw, row)]


@pytest.mark.parametrize(
    ("raw", "finds"),
    [
        ({}, lambda row: True),
        ({"and": []}, lambda row: True),
        ({"or": []}, lambda row: False),
        ({"colour": []}, lambda row: False),
        ({"colour": ["black", "navy"]}, lambda row: row.get("colour") in ("black", "navy")),
        ({"colour": {"not": "black"}}, lambda row: row.get("colour") != "black"),
        (
            {"colour": {"not": "black", "exists": True}},
            lambda row: row.get("colour", "black") != "black",
        ),
        ({"not": {"price": {"gt": 9.99}}}, lambda row: not row.get("price", 0) > 9.99),
        ({"price": {"gte": 0, "lt": 20}}, lambda row: 0 <= row.get("price", -1) < 20),
        ({"price": 20}, lambda row: row.get("price") == 20),
        ({"stock": 2**53 + 1}, lambda row: row.get("stock") == 2**53 + 1),
        ({"stock": {"gt": 0.5, "lte": 7.9}}, lambda row: row.get("stock") in (1, 7)),
        ({"stock": {"lt": 1e300}}, lambda row: "stock" in row),
        ({"stock": 1.5}, lambda row: False),
        ({"sale": True}, lambda row: row.get("sale") is True),
        ({"size": True}, lambda row: row.get("size") is True),
        ({"size": 1}, lambda row: row.get("size") == 1 and row["size"] is not True),
        ({"size": ["M", 42]}, lambda row: row.get("size") in ("M", 42)),
        ({"size": {"gt": "42"}}, lambda row: row.get("size") in ("M", "true")),
        ({"attributes.and": "or"}, lambda row: row.get("and") == "or"),
        ({"attributes.colour": "navy"}, lambda row: row.get("colour") == "navy"),
    ],
)
def test_what_filters_mean(raw: Any, finds: Any, items: Items) -> None:
    rows = [n for n, row in enumerate(ROWS) if finds(row)]
    assert found(items, raw) == rows
    assert found(items, {"not": raw}) == [n for n in range(len(ROWS)) if n not in rows]


def deep(levels: int) -> Any:
    return {"not": deep(levels - 1)} if levels else {"colour": "black"}


@pytest.mark.parametrize(
    ("raw", "path", "message"),
    [
        ([], "filters", "a list is no filter"),
        ("black", "filters", '"black" is no filter'),
        ({"and": {"colour": "black"}}, "filters.and", "attributes.and"),
        ({"and": [{"colour": "a"}, 3]}, "filters.and.1", "3 is no filter"),
        ({"colour": None}, "filters.colour", '{"exists": false}'),
        ({"colour": ["a", None]}, "filters.colour.1", "null is no value"),
        ({"colour": [["a"]]}, "filters.colour.0", "a list is no string"),
        ({"colour": 5}, "filters.colour", '5 is a number, and "colour" holds string'),
        ({"price": "5"}, "filters.price", "holds double: compare it with a number"),
        ({"price": True}, "filters.price", "true is a bool"),
        ({"sale": 1}, "filters.sale", "compare it with a bool"),
        ({"sale": {"gt": True}}, "filters.sale.gt", "is true or false"),
        ({"size": {"gt": True}}, "filters.size.gt", "compares numbers, or strings"),
        ({"price": {}}, "filters.price", "use gt, gte, lt, lte, not, exists"),
        ({"price": {"max": 5}}, "filters.price.max", '"max" is no operator'),
        ({"price": {"lte": [1, 2]}}, "filters.price.lte", "a list is no string"),
        ({"price": {"exists": "yes"}}, "filters.price.exists", "true or false"),
        ({"price": float("nan")}, "filters.price", "not finite"),
        ({"price": {"lt": float("inf")}}, "filters.price.lt", "not finite"),
        ({"stock": 2**63}, "filters.stock", "more than 64 bits"),
        ({"colour": 10**5000}, "filters.colour", "the integer is a number"),
        ({"colour": "\ud800"}, "filters.colour", "Unicode"),
        (deep(20), "filters.not.not.not.not.not.not.not.not", "more than 8 deep"),
        ({"or": [{"colour": "a"}] * MAX_CONDITIONS}, None, "more than 256 conditions"),
        ({"stock": list(range(MAX_VALUES + 1))}, f"filters.stock.{MAX_VALUES}", "1,024 values"),
        ({"colour": "a" * (MAX_CHARACTERS + 1)}, "filters.colour", "32,768 characters"),
    ],
)
def test_what_is_no_filter(raw: Any, path: str | None, message: str, items: Items) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(raw, items.attribute_types)
    assert message in str(caught.value)
    assert caught.value.code == "invalid_filter"
    assert str(caught.value).startswith(f"{caught.value.path}: ")
    if path is not None:
        assert caught.value.path == path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("color", '(is "colour" meant?): choose from colour (string), '),
        ("attributes.", 'no attribute "": choose'),
        ("x" * 10_000, "xx…"),
        ("\ud800\x1b[31m", "choose from"),
    ],
)
def test_an_unknown_attribute(name: str, message: str, items: Items) -> None:
    types = {"colour": "string", **items.attribute_types}
    with pytest.raises(FilterError) as caught:
        parse_filter({"and": [{name: 1}]}, types)
    assert caught.value.code == "unknown_attribute"
    assert caught.value.path.startswith("filters.and.0.")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


def test_a_catalogue_with_many_attributes_or_none() -> None:
    with pytest.raises(FilterError, match=r"and 70 more$"):
        parse_filter({"x": 1}, {f"attribute {n}": "string" for n in range(100)})
    with pytest.raises(FilterError, match=r"the catalogue has none$"):
        parse_filter({"x": 1}, {})


def test_an_attribute_that_these_products_lack_is_missing_of_all(items: Items) -> None:
    types = {**items.attribute_types, "new": "string", "colour": "mixed"}
    for raw, expected in (
        ({"new": "x"}, 0),
        ({"new": {"exists": True}}, 0),
        ({"new": {"not": "x"}}, len(items)),
        ({"colour": 5}, 0),
    ):
        assert np.count_nonzero(evaluate(parse_filter(raw, types), items)) == expected


def test_equal_filters_are_one_key_and_others_are_not(items: Items) -> None:
    def key(raw: object) -> Any:
        return parse_filter(raw, items.attribute_types)

    same = [
        {"colour": ["navy", "black", "navy"], "price": {"lt": 5, "gte": 1}},
        {"price": {"gte": 1.0, "lt": 5}, "attributes.colour": ["black", "navy"]},
    ]
    assert hash(key(same[0])) == hash(key(same[1]))
    different = [{"size": 1}, {"size": True}, {"size": "1"}, {"size": {"not": 1}}, {"price": 1}]
    assert len({key(raw) for raw in different}) == len(different)


def test_masks_are_kept_within_their_bounds(items: Items) -> None:
    masks = Masks(items, max_bytes=3 * len(items))
    parsed = [parse_filter({"stock": n}, items.attribute_types) for n in range(5)]
    first = masks.of(parsed[0])
    assert masks.of(parsed[0]) is first
    assert not first.flags.writeable
    for filter in parsed[1:3]:
        masks.of(filter)
    assert masks.of(parsed[0]) is first, "used last, so kept longest"
    masks.of(parsed[3])
    assert len(masks) == 3
    assert masks.of(parsed[0]) is first
    assert len(Masks(items, max_masks=2).of(parsed[0])) == len(items)
    none = Masks(items, max_bytes=len(items) - 1)
    assert np.array_equal(none.of(parsed[0]), first)
    assert len(none) == 0


def test_threads_that_ask_at_once_get_the_same(tmp_path: Path) -> None:
    write_items((Item(f"{n}", "", "", ("1",), row) for n, row in enumerate(ROWS)), tmp_path / "i")
    masks = Masks(Items(tmp_path / "i"), max_masks=2)
    raws = [{"size": one} for one in MIXED] + [{"colour": one} for one in COLOURS]
    with ThreadPoolExecutor(8) as threads:
        types = Items(tmp_path / "i").attribute_types
        got = list(threads.map(lambda raw: masks.of(parse_filter(raw, types)), raws * 20))
    for raw, mask in zip(raws * 20, got, strict=True):
        assert np.flatnonzero(mask).tolist() == [
            n for n, row in enumerate(ROWS) if matches(raw, row)
        ]
