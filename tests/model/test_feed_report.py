import csv
import json
import os
from pathlib import Path

import pytest

from model.errors import CatalogueError
from model.feed_report import REASONS, BadRow, BadRows, FeedReport

BAD = (
    BadRow(3, "", "missing_id", "nothing in column 'id'"),
    BadRow(7, "ä,b", "missing_picture", "'x.jpg' is not in images"),
    BadRow(7, "ä,b", "unreadable_picture", 'damaged "y.jpg"'),
    BadRow(9, "c", "missing_picture", "'z.jpg' is not in images"),
)


def report(*bad: BadRow) -> FeedReport:
    rows = BadRows()
    for row in bad:
        rows.add(row)
    return FeedReport(Path("shop/feed.csv"), 12_000, 11_998, 12_500, rows)


def test_bad_rows_come_by_their_lines() -> None:
    mixed = report(BAD[3], BAD[1], BAD[0], BAD[2]).bad
    assert list(mixed) == list(BAD)
    assert (len(mixed), mixed.first(2)) == (4, list(BAD[:2]))
    assert mixed.codes == [("missing_picture", 2), ("missing_id", 1), ("unreadable_picture", 1)]


def test_a_row_with_two_defects_counts_once() -> None:
    assert report(*BAD).bad_rows == 3


def test_summary() -> None:
    assert report().summary() == (
        "feed.csv: 12,000 rows, 11,998 products, 12,500 pictures, no bad rows"
    )
    assert report(*BAD).summary() == (
        "feed.csv: 12,000 rows, 11,998 products, 12,500 pictures, "
        "3 bad rows (2 missing_picture, 1 missing_id, 1 unreadable_picture)"
    )


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bad.jsonl"
    report(*BAD).write(path)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [BadRow(**line) for line in lines] == list(BAD)
    assert {line["code"] for line in lines} <= REASONS.keys()


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    report(*BAD).write(path)
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [BadRow(int(x["line"]), x["id"], x["code"], x["detail"]) for x in lines] == list(BAD)


def test_an_older_report_is_replaced_and_nothing_else_left(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("old")
    report().write(path)
    assert path.read_text() == ""
    assert os.listdir(tmp_path) == ["bad.jsonl"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogueError, match=r"bad\.jsonl cannot be written"):
        report().write(tmp_path / "file" / "bad.jsonl")
