"""The cells of a feed's columns that are attributes: what a product has of each."""

from __future__ import annotations

import re
from collections.abc import Iterator

from model.cell_types import CellType, NearlyNumbers, read_cell
from model.feed import Feed, cell_text, strings
from model.product import (
    MAX_ATTRIBUTES,
    MAX_ID_CHARACTERS,
    Attribute,
    ColumnMapping,
)

#: The numbers of a frame's rows, which pandas writes too once some were taken out.
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def attribute_columns(feed: Feed, columns: ColumnMapping) -> list[str]:
    """The columns of a feed that are attributes, without those whose names the service refuses."""
    meant = (columns.id, columns.image, columns.title, columns.description)
    return [
        name
        for name in feed.columns
        if name not in meant
        and name.strip()
        and len(name) <= MAX_ID_CHARACTERS
        and not _PANDAS_INDEX.fullmatch(name)
    ]


def split_lists(cells: dict[str, object], columns: ColumnMapping) -> dict[str, object]:
    """The cells of a row, those of the columns of lists as lists."""
    split = dict(cells) if columns.lists else cells
    for name in columns.lists:
        cell = cells.get(name)
        if isinstance(cell, str) and columns.separator:
            split[name] = cell.split(columns.separator)
        elif not isinstance(cell, list):
            split[name] = [cell]
    return split


def attribute_of(cell: object, kind: CellType) -> Attribute | None:
    """A cell as an attribute, None if it is empty. `kind` is for cells that are text."""
    if isinstance(cell, list | tuple):
        return strings(cell) or None
    if isinstance(cell, bool):
        return cell
    if isinstance(cell, int):
        return cell if abs(cell) < 1 << 63 else str(cell)
    if isinstance(cell, float):
        return cell if cell_text(cell) else None
    text = cell_text(cell)
    return read_cell(text, kind) if text else None


def doubts(feed: Feed, columns: ColumnMapping) -> Iterator[str]:
    """What there is to say of columns that the service would not take, or were nearly numbers."""
    place = "row" if feed.path.suffix.lower() == ".parquet" else "line"
    names = attribute_columns(feed, columns)
    for name in feed.columns:
        if len(name) > MAX_ID_CHARACTERS:
            yield (
                f"the column {name[:40]}… is left out: its name has {len(name):,} characters, at "
                f"most {MAX_ID_CHARACTERS} are taken"
            )
    if len(names) > MAX_ATTRIBUTES:
        yield (
            f"there are {len(names):,} attributes: a product with more than {MAX_ATTRIBUTES} of "
            "them can be searched, but not written to the service"
        )
    looked_at = {
        name: NearlyNumbers(written=name in feed.types)
        for name in names
        if name not in columns.lists and feed.types.get(name, str) is str
    }
    for row in feed.rows:
        for name, cell in row.cells.items():
            column = looked_at.get(name)
            if column is not None and cell_text(cell):
                column.add(row.line, cell.strip() if isinstance(cell, str) else cell)
    for name, column in looked_at.items():
        if (why := column.why()) is not None:
            yield f"{name} is {why[0]} because of {place} {why[1]}"
