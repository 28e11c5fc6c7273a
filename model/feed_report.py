"""What became of a product feed: how much was read, and every row that was not taken whole."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from itertools import islice
from pathlib import Path

from model.errors import CatalogueError
from model.on_disk import DiskSorted

REASONS = {
    "wrong_encoding": "not UTF-8, or a NUL character",
    "malformed": "cannot be parsed",
    "missing_id": "no id",
    "id_too_long": "an id of more characters than the service takes",
    "repeated_id": "an id seen before, with another text",
    "empty_text": "nothing to describe the product with",
    "missing_picture": "no picture, or not among the pictures",
    "outside_pictures": "a path that leads out of the pictures",
    "unreadable_picture": "a picture that cannot be decoded",
}


@dataclass(frozen=True, slots=True)
class BadRow:
    """Something of a row that was left out.

    `line` is the line a row starts on, counted from 1 with the header; in a Parquet feed, which
    has no lines, the row's number counted from 1. `code` is one of `REASONS`; `id` is empty where
    there is none.
    """

    line: int
    id: str
    code: str
    detail: str


class BadRows:
    """Bad rows in the order of their lines, however many; those of one line as they were added."""

    def __init__(self) -> None:
        self._rows = DiskSorted(astuple, lambda fields: BadRow(*fields))
        self._counts: Counter[str] = Counter()
        self._first_lines: dict[str, int] = {}

    def add(self, bad: BadRow) -> None:
        """Take one more."""
        self._rows.add(bad.line, bad)
        self._counts[bad.code] += 1
        self._first_lines[bad.code] = min(bad.line, self._first_lines.get(bad.code, bad.line))

    @property
    def codes(self) -> list[tuple[str, int]]:
        """The codes with how often each occurs, most often first, of equal ones by their lines."""
        counts = self._counts.items()
        return sorted(counts, key=lambda each: (-each[1], self._first_lines[each[0]]))

    @property
    def lines(self) -> int:
        """How many lines have one."""
        return self._rows.numbers

    def first(self, count: int) -> list[BadRow]:
        """The first so many."""
        return list(islice(self, count))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[BadRow]:
        return iter(self._rows)


@dataclass(frozen=True, slots=True)
class FeedReport:
    """The outcome of reading one feed.

    A row with several defects (a list of views with two bad ones) stands in `bad` once for each.
    `doubts` are columns that may not be what they were meant to be, each a sentence.
    """

    feed: Path
    rows: int
    products: int
    pictures: int
    bad: BadRows
    doubts: tuple[str, ...] = ()

    @property
    def bad_rows(self) -> int:
        """How many rows lost anything: the whole row, or one of several views."""
        return self.bad.lines

    def summary(self) -> str:
        """One line for people."""
        read = (
            f"{self.feed.name}: {self.rows:,} rows, {self.products:,} products, "
            f"{self.pictures:,} pictures"
        )
        if not self.bad:
            return f"{read}, no bad rows"
        return f"{read}, {self.bad_rows:,} bad rows ({self.reasons()})"

    def reasons(self) -> str:
        """The defects by how often they occur, such as `3 missing_picture, 1 empty_text`."""
        return ", ".join(f"{count:,} {code}" for code, count in self.bad.codes)

    def write(self, path: Path) -> None:
        """Write the bad rows, one a line: as CSV if the path ends so, else as JSONL.

        Raises:
            CatalogueError: the file cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with open(handle, "w", encoding="utf-8", newline="") as file:
                    if path.suffix.lower() == ".csv":
                        writer = csv.writer(file)
                        writer.writerow(field.name for field in fields(BadRow))
                        writer.writerows(
                            (bad.line, bad.id, bad.code, bad.detail) for bad in self.bad
                        )
                    else:
                        for bad in self.bad:
                            file.write(json.dumps(asdict(bad), ensure_ascii=False) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)  # mkstemp makes it private
                os.replace(temporary, path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise CatalogueError(
                f"the report {path} cannot be written ({error.strerror}): name another place"
            ) from error
