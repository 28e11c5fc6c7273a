"""What became of a product feed: how much was read, and every row that was not taken whole."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from model.errors import CatalogueError

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


@dataclass(frozen=True, slots=True)
class FeedReport:
    """The outcome of reading one feed.

    A row with several defects (a list of views with two bad ones) stands in `bad` once for each,
    in the order of the lines. `doubts` are columns that may not be what they were meant to be, each
    a sentence.
    """

    feed: Path
    rows: int
    products: int
    pictures: int
    bad: tuple[BadRow, ...]
    doubts: tuple[str, ...] = ()

    @property
    def bad_rows(self) -> int:
        """How many rows lost anything: the whole row, or one of several views."""
        return len({bad.line for bad in self.bad})

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
        counts = Counter(bad.code for bad in self.bad)
        return ", ".join(f"{count:,} {code}" for code, count in counts.most_common())

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
