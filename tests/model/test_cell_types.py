from __future__ import annotations

from collections.abc import Sequence

import pytest

from model.cell_types import NearlyNumbers
from model.product import Scalar


def told(cells: Sequence[Scalar], *, written: bool = True) -> str | None:
    column = NearlyNumbers(written=written)
    for line, cell in enumerate(cells, start=2):
        column.add(line, cell)
    found = column.why()
    return None if found is None else found[1]


def test_the_first_odd_cell_is_named() -> None:
    why = told([*map(str, range(1, 30)), "on request", "-", "3.5"])
    assert why is not None
    assert why.startswith("31: 'on request' (2 of 32 cells are no numbers): leave such cells empty")


def test_one_placeholder_that_is_often_there() -> None:
    assert told(["1", "n/a", "2", "n/a", "3"]) is not None
    assert told(["1", "n/a", "2", "none", "3"]) is None


@pytest.mark.parametrize(
    "cells",
    [
        ["19,99", "1.299,00", "5", "-0,5"],
        ["11.99 EUR", "5 EUR", "1299.00 EUR"],  # as Google's product feeds have them
        ["$9", "$1,299.00", "-$.5", "+$3"],
        ["€ 9,95", "1 299,00 €", "12'000 CHF"],
        ["+1.5", ".5", "1,199.00", "7"],
    ],
)
def test_numbers_as_people_write_them(cells: list[str]) -> None:
    why = told(cells)
    assert why is not None
    assert why.startswith(f"2: {cells[0]!r}")
    assert "decimals with a point" in why


@pytest.mark.parametrize(
    ("cells", "written"),
    [
        ([], True),
        (["1.5.2020", "24.12.2021"], True),
        (["38-40", "42-44", "EUR", "."], True),
        (["1", "2.5"], True),
        (["red", "blue"], True),
        (["0123", *map(str, range(1, 30)), "x"], True),
        (["9.99", "8", "n/a"], False),  # JSON's strings are meant
        ([1, 2.5], False),
    ],
)
def test_nothing_to_tell(cells: list[Scalar], written: bool) -> None:
    assert told(cells, written=written) is None


def test_numbers_in_quotes_among_those_of_json() -> None:
    why = told([19.99, "20.50", "7", 20], written=False)
    assert why is not None
    assert why.startswith("3: '20.50' (2 of 4 cells are no numbers): write")
    assert why.endswith("no quotes or anything else")


def test_a_long_cell_is_cut() -> None:
    why = told([*map(str, range(1, 30)), "x" * 1000])
    assert why is not None
    assert len(why) < 200
