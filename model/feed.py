"""The rows of a product feed: CSV, JSONL or Parquet, each with the line it stands on.

A row that cannot be read becomes a `BadRow` and the next one is read; only what makes the whole
file useless (missing, another format, no header) is an error.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from model.cell_types import CellType, ColumnType
from model.errors import CatalogueError
from model.feed_report import BadRow, BadRows
from model.on_disk import DiskList

MAX_CELL_CHARACTERS = 1 << 20  # Python's own limit, 128 Ki, is less than some shops' HTML
_BATCH = 256  # rows of a Parquet file that are read at a time
_MOST_SHAPES = 4096  # of rows, whose columns' names are stored once
_NOTHING: list[object] = [[]]
MAX_NESTING = 200  # a limit of our own: Python's depends on who calls

# What decoding with `surrogateescape` leaves of a byte that is not UTF-8; JSON's \ud800 likewise.
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")

#: What stands on a line before the header, for Excel.
_SEPARATOR = re.compile(r'\s*"?sep=([,;\t|])"?\s*', re.IGNORECASE)
_QUOTED = re.compile(r'"[^"]*"?')


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of one row by column; `line` as in `BadRow`."""

    line: int
    cells: dict[str, object]


#: What a reader gives: rows, and of a CSV the names of its columns before them.
_Read = tuple[str, ...] | Row | BadRow


class Rows(DiskList[Row]):
    """The rows of a feed, on disk; cells as JSON has them: a duration, say, is text."""

    def __init__(self) -> None:
        super().__init__(self._stored, self._read_again)
        #: The names of the columns that rows have, mostly the same ones for all of them.
        self._names: list[tuple[str, ...]] = []
        self._numbers: dict[tuple[str, ...], int] = {}

    def _stored(self, row: Row) -> Any:
        names = tuple(row.cells)
        number = self._numbers.get(names)
        if number is None and len(self._names) < _MOST_SHAPES:
            number = self._numbers[names] = len(self._names)
            self._names.append(names)
        cells = list(map(_without_bytes, row.cells.values()))
        if number is None:
            return row.line, names, cells
        return row.line, number, cells

    def _read_again(self, stored: Any) -> Row:
        line, names, cells = stored
        if isinstance(names, int):
            names = self._names[names]
        return Row(line, dict(zip(names, cells, strict=True)))


def _without_bytes(cell: object) -> object:
    """A cell with nothing in place of bytes, which have no text here and name no picture."""
    if isinstance(cell, bytes):
        return _NOTHING
    if isinstance(cell, list | tuple):
        return list(map(_without_bytes, cell))
    return cell


@dataclass(frozen=True, slots=True)
class Feed:
    """Everything a feed holds.

    `types` says as what the cells of a CSV column may be read without loss, see `ColumnType`.
    For JSONL and Parquet, whose cells have types of their own, it is empty.
    """

    path: Path
    columns: tuple[str, ...]
    rows: Rows
    bad: BadRows
    types: dict[str, CellType]


def cell_text(cell: object) -> str:
    """A cell as text: nothing for null and NaN, `, ` between the entries of a list."""
    match cell:
        case None:
            return ""
        case str():
            return cell.strip()
        case bool():
            return "true" if cell else "false"
        case float():
            if not math.isfinite(cell):
                return ""
            # A column of integers with gaps often arrives as floats: 2011.0 is 2011.
            return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else str(cell)
        case list() | tuple():
            return ", ".join(text for text in map(cell_text, cell) if text)
        case dict():
            return json.dumps(cell, ensure_ascii=False, default=str)
        case bytes():
            return ""
        case _:
            return str(cell)


def strings(cells: Iterable[object]) -> tuple[str, ...]:
    """The entries of a list as an attribute has them: as texts, without empty and repeated ones."""
    return tuple(dict.fromkeys(text for text in map(cell_text, cells) if text))


def read_feed(path: Path, *, id_column: str = "id") -> Feed:
    """Read a feed by its extension: `.csv` or `.tsv`, `.jsonl` or `.ndjson`, `.parquet`.

    Text is UTF-8, with or without a byte order mark. A CSV may be separated by commas, semicolons
    or tabs, whichever its header uses, or by what a line such as `sep=;` before it says.
    `id_column` serves to name the bad rows.

    Raises:
        CatalogueError: the file is missing, of another kind, damaged as a whole, or has no rows.
    """
    reader = _READERS.get(path.suffix.lower())
    try:
        there, is_folder = path.is_file(), path.is_dir()
    except OSError as error:
        raise _unreadable(path, error) from error
    if is_folder:  # as Spark writes Parquet
        raise CatalogueError(f"the feed {path} is a folder: name one file, and join several first")
    if not there:
        raise CatalogueError(f"there is no feed {path}: name a CSV, JSONL or Parquet file")
    if reader is None:
        raise CatalogueError(
            f"{path} ends in {path.suffix or 'nothing'!r}, which is no feed: "
            f"it must be one of {', '.join(_READERS)}, or Fashion-Gen's .h5"
        )
    columns: dict[str, None] = {}
    rows, bad = Rows(), BadRows()
    types: defaultdict[str, ColumnType] = defaultdict(ColumnType)
    try:
        for row in reader(path):
            if isinstance(row, tuple):  # the header
                columns.update(dict.fromkeys(row))
            elif isinstance(row, BadRow):
                bad.add(row)
            elif (defect := _defect(row, id_column)) is not None:
                bad.add(defect)
            else:
                rows.append(row)
                if reader is _read_csv:
                    for name, cell in row.cells.items():
                        types[name].add(str(cell).strip())
                if row.cells.keys() != columns.keys():
                    columns.update(dict.fromkeys(row.cells))
    except OSError as error:
        raise _unreadable(path, error) from error
    if not rows and not bad:
        raise CatalogueError(f"{path} has no rows: there is nothing to read")
    read_as = {name: types[name].type for name in columns} if reader is _read_csv else {}
    return Feed(path, tuple(columns), rows, bad, read_as)


def _unreadable(path: Path, error: OSError) -> CatalogueError:
    return CatalogueError(f"{path} cannot be read: {error.strerror or error}")


def _defect(row: Row, id_column: str) -> BadRow | None:
    """What is wrong with a row's cells as they were read, None if nothing is."""
    level: list[object] = [row.cells]
    for _ in range(MAX_NESTING + 1):  # the row itself does not count
        parts = [part for cell in level for part in _parts(cell)]
        if any(isinstance(part, str) and _NOT_TEXT.search(part) for part in parts):
            return _wrong_encoding(row.line, _printable_id(row, id_column))
        level = [part for part in parts if isinstance(part, dict | list | tuple)]
        if not level:
            return None
    return _too_deep(row.line, _printable_id(row, id_column))


def _parts(cell: object) -> Iterable[object]:
    if isinstance(cell, dict):
        return (*cell, *cell.values())
    return cell if isinstance(cell, list | tuple) else ()


def _printable_id(row: Row, id_column: str) -> str:
    cell = row.cells.get(id_column)
    if isinstance(cell, list | tuple | dict):
        return ""
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", cell_text(cell))


def _too_deep(line: int, id: str = "") -> BadRow:
    return BadRow(line, id, "malformed", f"nested more than {MAX_NESTING} deep")


def _array(line: int) -> BadRow:
    detail = "one JSON array: JSONL wants one object a line, without brackets and commas around"
    return BadRow(line, "", "malformed", detail)


def _wrong_encoding(line: int, id: str = "") -> BadRow:
    detail = "not valid UTF-8, or holds a NUL character: save the feed as UTF-8"
    return BadRow(line, id, "wrong_encoding", detail)


def _refuse_utf16(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise CatalogueError(f"{path} is UTF-16: save it as UTF-8")


class _Lines:
    """The lines of a file, which remembers those of the record being read."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self._record: list[str] = []
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.number += 1
        self._record.append(line)
        return line

    def start_record(self) -> int:
        """Forget the last record; the number of the line on which the next one starts."""
        self._record.clear()
        return self.number + 1

    def back_to_second_line(self) -> None:
        """Read all but the record's first line again."""
        self._again.extendleft(reversed(self._record[1:]))
        self.number -= len(self._record) - 1


def _read_csv(path: Path) -> Iterator[_Read]:
    _refuse_utf16(path)
    before = csv.field_size_limit()
    csv.field_size_limit(max(before, MAX_CELL_CHARACTERS))
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from _csv_rows(path, _Lines(file))
    finally:
        csv.field_size_limit(before)


def _csv_rows(path: Path, lines: _Lines) -> Iterator[_Read]:
    head = next((line for line in lines if line.strip()), "")
    if said := _SEPARATOR.fullmatch(head):
        delimiter, head = said[1], next(lines, "")
    else:
        delimiter = max(",;\t", key=_QUOTED.sub("", head).count)
    try:
        # From all lines: a quoted name may hold breaks.
        names = next(csv.reader(chain([head], lines), delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise CatalogueError(
            f"the header of {path} is not valid CSV, a quote is opened and not closed or not "
            f"doubled ({error}): mend its first line"
        ) from error
    header = [" ".join(map(str.strip, name.splitlines())) for name in names]
    if any(map(_NOT_TEXT.search, header)):
        raise CatalogueError(f"the header of {path} is not UTF-8 text: save the feed as UTF-8")
    _refuse_repeated_columns(path, header)
    yield tuple(filter(None, header))
    # strict: a stray quote is an error rather than a cell that swallows the rows after it.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        first = lines.start_record()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines.back_to_second_line()
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            detail = f"not valid CSV, a quote is opened and not closed or not doubled ({error})"
            yield BadRow(first, "", "malformed", detail)
            continue
        if len(cells) == len(header):
            yield Row(first, {name: cell for name, cell in zip(header, cells, strict=True) if name})
        elif any(map(str.strip, cells)):
            detail = f"{len(cells)} cells where the header has {len(header)}"
            yield BadRow(first, "", "malformed", detail)


def _refuse_repeated_columns(path: Path, names: list[str]) -> None:
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise CatalogueError(
            f"{path} has more than one column called {', '.join(repeated)}: rename all but one"
        )


def _read_jsonl(path: Path) -> Iterator[_Read]:
    _refuse_utf16(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape").strip()
            if not text:
                continue
            try:
                cells = json.loads(text)
            except RecursionError:
                yield _too_deep(number)
                continue
            except ValueError as error:
                if _NOT_TEXT.search(text):
                    yield _wrong_encoding(number)
                elif text.startswith("["):
                    yield _array(number)
                else:
                    yield BadRow(number, "", "malformed", f"not valid JSON: {error}")
                continue
            if isinstance(cells, dict):
                yield Row(number, cells)
            elif isinstance(cells, list):
                yield _array(number)
            else:
                detail = f"a JSON {type(cells).__name__} where an object is needed"
                yield BadRow(number, "", "malformed", detail)


def _read_parquet(path: Path) -> Iterator[_Read]:
    # Imported here: only this format needs it, and it takes as long to load as a feed to read.
    import pyarrow as pa
    import pyarrow.parquet as pq

    from model.parquet_cells import ONE_AFTER_THE_OTHER, column_cells

    try:
        with pq.ParquetFile(path, **ONE_AFTER_THE_OTHER) as file:
            names = list(file.schema_arrow.names)
            _refuse_repeated_columns(path, names)
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH):
                columns = [column_cells(column) for column in batch.columns]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield Row(number, dict(zip(names, cells, strict=True)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CatalogueError(
            f"{path} is damaged or not a Parquet file ({error}): export it again"
        ) from error


_READERS: dict[str, Callable[[Path], Iterator[_Read]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
}
