from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.compact import compact
from index.delta_records import Delete, Put
from index.facets import count_facet
from index.filter_parser import parse_filter
from index.filters import evaluate
from index.live import LiveSnapshot
from index.live_index import LiveIndex
from model.attributes import value_type

MakePut = Callable[..., Put]

LONG = 2**53 + 1  # the first integer that float64 does not have
ASKED = (LONG, LONG - 1, LONG + 1, 2.0**53, 1.5, 7, -3, 2**63 - 1, -LONG)
OPERATORS = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


def found(snapshot: LiveSnapshot, raw: Any) -> set[str]:
    mask = (
        evaluate(parse_filter(raw, snapshot.items.attribute_types), snapshot.items)
        & snapshot.items.live
    )
    return {snapshot.item(row).id for row in np.flatnonzero(mask).tolist()}


def check(snapshot: LiveSnapshot, type: str) -> None:
    """Types, filters and facets of `code` say what the products have."""
    assert snapshot.items.attribute_types["code"] == type
    column = snapshot.items.column("code")
    assert column is not None
    assert column.type == type
    there = {
        item.id: item.attributes["code"] for item in snapshot.items if "code" in item.attributes
    }
    assert found(snapshot, {"code": {"exists": True}}) == set(there)
    numbers = {
        id: value
        for id, value in there.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    for asked in ASKED:
        same = {id for id, value in numbers.items() if value == asked}
        assert found(snapshot, {"code": asked}) == same, asked
        for name, holds in OPERATORS.items():
            on_that_side = {id for id, value in numbers.items() if holds(value, asked)}
            assert found(snapshot, {"code": {name: asked}}) == on_that_side, (name, asked)
    facet = count_facet(column, snapshot.items.live, 100)
    assert facet.type == type
    # By kind, as Python takes 1 and True for equal.
    counts = Counter((isinstance(value, bool), value) for value in there.values())
    assert {(isinstance(value, bool), value): n for value, n in facet.values} == counts
    assert facet.distinct == len(counts)
    assert facet.spread is not None
    assert facet.spread.smallest == pytest.approx(min(numbers.values()))
    assert sum(bucket.count for bucket in facet.spread.histogram) == len(numbers)


@pytest.mark.parametrize(
    ("values", "type"),
    [
        ([7, LONG, LONG], "int64"),
        ([7, 1.5, 7.0, -3], "double"),
        ([LONG + 1, 1.5], "double"),
        ([LONG, 1.5], "mixed"),
        ([1.5, -LONG, 7, 7.0, 1.5], "mixed"),
        ([2**63 - 1, 0.5, LONG], "mixed"),
        ([LONG, 7, "s"], "mixed"),
        ([LONG, 1.5, "s", True, 1], "mixed"),
    ],
)
def test_large_integers_stay_what_they_are(
    values: list[Any], type: str, own_root: Path, make_put: MakePut
) -> None:
    with LiveIndex.open(own_root) as live:
        latest = live.exchange([make_put(f"n{n}", code=value) for n, value in enumerate(values)])[1]
        check(latest, type)
        before = {item.id: item.attributes for item in latest.items}
        assert [before[f"n{n}"]["code"] for n in range(len(values))] == values
        compact(own_root)
        assert live.refresh()
        assert live.latest.name == "00000002"
        check(live.latest, type)
        assert {item.id: item.attributes for item in live.latest.items} == before


def test_one_value_is_a_list_where_another_product_has_several(
    own_root: Path, make_put: MakePut
) -> None:
    def fits(snapshot: LiveSnapshot) -> dict[str, Any]:
        return {id: snapshot.item(snapshot.row_of(id)).attributes.get("fit") for id in ("a", "b")}

    with LiveIndex.open(own_root) as live:
        assert fits(live.exchange([make_put("a", fit="slim"), make_put("b", fit="wide")])[1]) == {
            "a": "slim",
            "b": "wide",
        }
        latest = live.exchange([make_put("b", fit=("wide", "long"))])[1]
        assert latest.items.attribute_types["fit"] == "strings"
        lists = {"a": ("slim",), "b": ("wide", "long")}
        assert fits(latest) == lists
        compact(own_root)
        live.refresh()
        assert fits(live.latest) == lists
        gone = live.exchange([Delete("b"), make_put("a", fit="slim")])[1]
        assert gone.item(gone.row_of("a")).attributes["fit"] == ("slim",)  # as the snapshot has it


def test_a_list_that_is_gone_makes_none_of_others(own_root: Path, make_put: MakePut) -> None:
    with LiveIndex.open(own_root) as live:
        live.exchange([make_put("a", fit="slim"), make_put("b", fit=("wide", "long"))])
        latest = live.exchange([Delete("b")])[1]
        assert latest.items.attribute_types["fit"] == "string"
        assert latest.item(latest.row_of("a")).attributes["fit"] == "slim"


def test_what_was_deleted_makes_no_mixture(own_root: Path, make_put: MakePut) -> None:
    with LiveIndex.open(own_root) as live:
        live.exchange([make_put("a", code=LONG), make_put("b", code=7), make_put("gone", code="s")])
        check(live.latest, "mixed")
        check(live.exchange([Delete("gone")])[1], "int64")
        live.exchange([make_put("b", code=1.5)])
        check(live.latest, "mixed")
        check(live.exchange([make_put("a", code=3)])[1], "double")
        latest = live.exchange([Delete("a"), Delete("b")])[1]
        assert "code" not in latest.items.attribute_types
        assert latest.items.column("code") is None


def test_types_are_of_what_a_write_changes_and_not_of_all_writes_again(
    own_root: Path, make_put: MakePut, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = []

    def look(value: Any) -> str:
        looked_at.append(value)
        return value_type(value)

    monkeypatch.setattr("index.delta.value_type", look)
    with LiveIndex.open(own_root) as live:
        live.exchange([make_put(f"n{n}", code=n) for n in range(20)])
        looked_at.clear()
        latest = live.exchange([make_put("n0", code="s"), Delete("n1")])[1]
        assert latest.items.attribute_types["code"] == "mixed"
        assert looked_at == [0, "s", 1]


@pytest.mark.parametrize("value", ["s", True])
def test_integers_and_a_fraction_on_top_of_what_is_no_number(
    value: Any, own_root: Path, make_put: MakePut
) -> None:
    with LiveIndex.open(own_root) as live:
        live.exchange([make_put("a", code=value)])
        compact(own_root)
        live.refresh()
        check(live.exchange([make_put("b", code=7), make_put("c", code=1.5)])[1], "mixed")


@pytest.mark.parametrize("long", [LONG, -LONG])
def test_integers_of_the_snapshot_and_a_fraction_on_top(
    long: int, own_root: Path, make_put: MakePut
) -> None:
    with LiveIndex.open(own_root) as live:
        live.exchange([make_put("a", code=long), make_put("b", code=7)])
        compact(own_root)
        live.refresh()
        check(live.latest, "int64")
        check(live.exchange([make_put("c", code=1.5)])[1], "mixed")
        check(live.exchange([Delete("a")])[1], "double")
        compact(own_root)
        live.refresh()
        check(live.latest, "double")
        check(live.exchange([make_put("d", code=-LONG)])[1], "mixed")
        compact(own_root)
        live.refresh()
        check(live.latest, "mixed")
        assert live.latest.item(live.latest.row_of("d")).attributes == {"code": -LONG}
