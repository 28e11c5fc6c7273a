"""What the cells of a column are read as, and which columns were nearly numbers.

Cells are looked at one after the other, as a column may have more of them than memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache, wraps
from typing import TypeVar

from model.product import Scalar

CellType = type[str] | type[int] | type[float] | type[bool]

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]+)?")
_CURRENCY = (
    "(?:[$€£¥₹]|AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HKD|HUF|INR|JPY|KRW|MXN|NOK|NZD|PLN|RON|SEK|SGD|"
    "TRY|USD|ZAR)?"
)
#: A number as people and other programs write it: `19,99`, `1,299.00`, `.5`, `11.99 EUR`.
_OTHERWISE = re.compile(
    rf"[+-]?{_CURRENCY}\s?[+-]?(?=[0-9.,])"
    r"(?:[0-9]+|[0-9]{1,3}(?:[., '][0-9]{3})+)?(?:[.,][0-9]+)?"
    rf"\s?{_CURRENCY}"
)
_CODE = re.compile(r"0[0-9]+")  # an article number, say: text on purpose
_BOOLEANS = ("true", "false")
_NEARLY_ALL = 0.9
_SHOWN = 40  # characters of a cell that a message repeats
_REMEMBERED, _REMEMBERED_CHARACTERS = 1 << 15, 64

_T = TypeVar("_T")


def _remembered(look: Callable[[str], _T]) -> Callable[[str], _T]:
    """What is found in a text, found once for a short one that is often there."""
    remembered = lru_cache(_REMEMBERED)(look)

    @wraps(look)
    def found(text: str) -> _T:
        return (remembered if len(text) <= _REMEMBERED_CHARACTERS else look)(text)

    return found


@_remembered
def _types_of(cell: str) -> tuple[bool, bool, bool]:
    """Whether a cell may be read as an integer, as a decimal number, and as true or false."""
    return (
        _INTEGER.fullmatch(cell) is not None,
        _DECIMAL.fullmatch(cell) is not None,
        cell.lower() in _BOOLEANS,
    )


class ColumnType:
    """As what the cells of a CSV column may be read without loss: `type`, once it has seen all.

    `int` or `float` if each is a plain decimal number without leading zeros, `bool` if each is
    true or false in any case, else `str`; empty ones do not count.
    """

    __slots__ = ("_booleans", "_decimals", "_empty", "_integers")

    def __init__(self) -> None:
        self._empty = self._integers = self._decimals = self._booleans = True

    def add(self, cell: str) -> None:
        """Look at a cell, without blanks around it."""
        if not cell or not (self._integers or self._decimals or self._booleans):
            return
        self._empty = False
        integer, decimal, boolean = _types_of(cell)
        self._integers &= integer
        self._decimals &= decimal
        self._booleans &= boolean

    @property
    def type(self) -> CellType:
        """What it is so far."""
        if self._empty:
            return str
        if self._integers:
            return int
        if self._decimals:
            return float
        return bool if self._booleans else str


def read_cell(text: str, kind: CellType) -> Scalar:
    """A cell that is not empty as its column's type."""
    return text.lower() == "true" if kind is bool else kind(text)


class _Form(IntEnum):
    """What a text among numbers is: one written out, one written as people do, a code, another."""

    DECIMAL = 0
    OTHERWISE = 1
    CODE = 2
    OTHER = 3


@_remembered
def _form(text: str) -> _Form:
    if _CODE.fullmatch(text):
        return _Form.CODE
    if _DECIMAL.fullmatch(text):
        return _Form.DECIMAL
    return _Form.OTHERWISE if _OTHERWISE.fullmatch(text) else _Form.OTHER


class NearlyNumbers:
    """Whether a column nearly is one of numbers: `why`, once it has seen all cells.

    Nearly means nine cells of ten, or more than half where the others all hold the same. A number
    with a decimal comma, separators of thousands or a currency is nearly one, and so is one in
    quotes among JSON's numbers. Numbers that begin with 0 make a column one of codes.

    Args:
        written: numbers are written out, as in CSV; else they are numbers already.
    """

    def __init__(self, *, written: bool) -> None:
        self._written = written
        self._cells = 0
        self._numbers = 0
        self._codes = 0
        self._lists = False
        self._texts_only = True
        self._first_odd: tuple[int, Scalar] | None = None
        #: Of the odd cells: how many there are of each form, and those few that are different.
        self._odd = [0 for _ in _Form]
        self._different: list[set[Scalar]] = [set() for _ in _Form]

    def add(self, line: int, cell: object) -> None:
        """Look at a cell that is not empty, a text without blanks around it, and where it is."""
        self._cells += 1
        if not isinstance(cell, Scalar):
            self._lists = True
            return
        if _is_number(cell):
            self._numbers += 1
            self._texts_only = False
            return
        form = _Form.OTHER
        if isinstance(cell, str):
            form = _form(cell)
            self._codes += form is _Form.CODE
        else:
            self._texts_only = False
        if form is _Form.DECIMAL and self._written:
            return
        if self._first_odd is None:
            self._first_odd = line, cell
        self._odd[form] += 1
        different = self._different[form]
        if len(different) < 2:  # more would not tell more
            different.add(cell)

    def why(self) -> tuple[str, str] | None:
        """The kind of the column, `text` or `mixed`, and why it is that and not one of numbers.

        Returns:
            None if it is not even nearly one of numbers, or is one. What to tell begins with the
            line of the first cell that is no number.
        """
        if self._lists or self._first_odd is None or (self._written and self._codes):
            return None
        forms = {_Form.OTHERWISE, _Form.CODE}  # of numbers, but not as they should be
        if self._numbers:  # without quotes, so those in quotes are such ones too
            forms.add(_Form.DECIMAL)
        otherwise = sum(self._odd[form] for form in forms)
        odd = sum(self._odd)
        others = [self._different[form] for form in _Form if form not in forms]
        share = 1 - (odd - otherwise) / self._cells
        if not (share >= _NEARLY_ALL or (share > 0.5 and len(set().union(*others)) == 1)):
            return None
        line, cell = self._first_odd
        shown = str(cell) if len(str(cell)) <= _SHOWN else f"{str(cell)[: _SHOWN - 1]}…"
        more = "nothing" if self._written else "no quotes or anything"
        remedy = (
            f"write 1,299.00 EUR as 1299.00: decimals with a point, and {more} else"
            if otherwise
            else "leave such cells empty if the column is to be numbers"
        )
        count = f"{odd:,} of {self._cells:,} cells are no numbers"
        kind = "text" if self._texts_only else "mixed"
        return kind, f"{line}: {shown!r} ({count}): {remedy}"


def _is_number(cell: Scalar) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)
