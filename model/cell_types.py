"""What the cells of a column are read as, and which columns were nearly numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

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


def type_of_cells(cells: Collection[str]) -> CellType:
    """As what the cells of a CSV column may be read without loss; empty ones are not among them.

    `int` or `float` if each is a plain decimal number without leading zeros, `bool` if each is
    true or false in any case, else `str`.
    """
    if not cells:
        return str
    if all(map(_INTEGER.fullmatch, cells)):
        return int
    if all(map(_DECIMAL.fullmatch, cells)):
        return float
    return bool if all(cell.lower() in _BOOLEANS for cell in cells) else str


def read_cell(text: str, kind: CellType) -> Scalar:
    """A cell that is not empty as its column's type."""
    return text.lower() == "true" if kind is bool else kind(text)


def nearly_numbers(cells: Sequence[tuple[int, Scalar]], *, written: bool) -> str | None:
    """Why a column is not one of numbers, if it nearly is; None if it is not even nearly, or is.

    Nearly means nine cells of ten, or more than half where the others all hold the same. A number
    with a decimal comma, separators of thousands or a currency is nearly one, and so is one in
    quotes among JSON's numbers. Numbers that begin with 0 make a column one of codes.

    Args:
        cells: those that are not empty, each with its line.
        written: numbers are written out, as in CSV; else they are numbers already.

    Returns:
        What to tell, beginning with the line of the first cell that is no number.
    """
    numeric = any(_is_number(cell) for _, cell in cells)
    texts = {cell for _, cell in cells if isinstance(cell, str)}
    numbers = {text for text in texts if written and _DECIMAL.fullmatch(text)}
    otherwise = {
        text
        for text in texts - numbers
        if _OTHERWISE.fullmatch(text) and (numeric or not _DECIMAL.fullmatch(text))
    }
    if written and any(map(_CODE.fullmatch, texts)):
        return None
    odd = [(line, cell) for line, cell in cells if not (cell in numbers or _is_number(cell))]
    others = [cell for _, cell in odd if cell not in otherwise]
    share = 1 - len(others) / max(1, len(cells))
    nearly = share >= _NEARLY_ALL or (share > 0.5 and len(set(others)) == 1)
    if not odd or not nearly:
        return None
    line, cell = odd[0]
    shown = str(cell) if len(str(cell)) <= _SHOWN else f"{str(cell)[: _SHOWN - 1]}…"
    more = "nothing" if written else "no quotes or anything"
    remedy = (
        f"write 1,299.00 EUR as 1299.00: decimals with a point, and {more} else"
        if otherwise
        else "leave such cells empty if the column is to be numbers"
    )
    count = f"{len(odd):,} of {len(cells):,} cells are no numbers"
    return f"{line}: {shown!r} ({count}): {remedy}"


def _is_number(cell: Scalar) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool)
