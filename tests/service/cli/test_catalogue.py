from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Shell = Callable[..., Any]


def test_demo_and_check(shell: Shell, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    made = shell("catalogue", "demo", folder, "--products", "6", "--held-out", "2", "--seed", "3")
    assert made.code == 0, made.err
    checked = shell("catalogue", "check", folder / "train.csv")
    assert checked.code == 0, checked.err
    assert checked.out.startswith("train.csv: 6 rows, 6 products")


def test_a_demo_that_cannot_be_written(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = shell("catalogue", "demo", tmp_path / "file" / "demo", "--products", "1")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.count("\n") == 1
    assert "file/demo (Not a directory): make room, or name another folder" in ran.err


def test_bad_rows_go_to_the_report(shell: Shell, demo_catalogue: Path, tmp_path: Path) -> None:
    feed, report = tmp_path / "feed.csv", tmp_path / "bad.jsonl"
    feed.write_text("id,image,title\n1,images/000001.jpg,hat\n2,images/none.jpg,scarf\n")
    command = ["catalogue", "check", feed, "--images", demo_catalogue / "images.tar"]
    ran = shell(*command, "--report", report)
    assert (ran.code, ran.out) == (2, "")
    assert "50.0% of the rows" in ran.err
    assert [json.loads(line)["id"] for line in report.read_text().splitlines()] == ["2"]
    assert shell(*command, "--max-bad", "0.5").code == 0


def test_a_column_that_is_not_there(shell: Shell, demo_catalogue: Path) -> None:
    ran = shell("catalogue", "check", demo_catalogue / "train.csv", "--id-column", "sku")
    assert ran.code == 2
    assert "has no column 'sku'" in ran.err
