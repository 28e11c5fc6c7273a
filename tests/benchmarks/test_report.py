"""Figures in the document are those of the files, or are said to be missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import spread
from benchmarks.report import write_report
from benchmarks.results import Results
from benchmarks.settings import ROOT

DOCUMENT = """# Figures
<!-- begin machine -->
<!-- end machine -->
<!-- begin goals -->
of an earlier run
<!-- end goals -->
<!-- begin offline -->
of an earlier run
<!-- end offline -->
Words between.
<!-- begin recall -->
<!-- end recall -->
"""
SETTINGS: dict[str, Any] = {"rounds": 3, "quick": False}


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "BENCHMARKS.md"
    path.write_text(DOCUMENT, encoding="utf-8")
    return path


def _offline(folder: Path, settings: dict[str, Any], share: float, *, whole: bool = True) -> None:
    results = Results(folder, "offline", settings)
    levels = ("job", "processes", "wide", "sessions")
    found = {
        "facts": {"pictures": 1234, "processes": 2},
        "pictures_per_second": {level: spread([share, share]) for level in levels},
        "share_percent": {
            level: {bare: spread([share, share + 1, share + 2]) for bare in ("wide", "sessions")}
            for level in ("job", "processes")
        },
    }
    results.step("small-int8", lambda: found)
    if whole:
        results.finish()


def test_figures_stand_where_they_belong(tmp_path: Path, document: Path) -> None:
    _offline(tmp_path, SETTINGS, 93)
    missing = write_report(tmp_path, document)
    text = document.read_text(encoding="utf-8")
    assert "offline" not in missing
    assert "recall" in missing
    rate = "93.0 (93.0–93.0)"
    assert f"int8: the job, 2 processes | 1,234 | {rate} | {rate} | {rate} | 94.0" in text
    assert "Not measured yet: `python -m benchmarks recall`." in text
    job = "the offline job against the bare sessions"
    told = "94.0 (93.0–95.0) % of each by all cores, 94.0 (93.0–95.0) % of one a core"
    for processes in ("one process", "a process a core"):
        assert f"| {job}, {processes} | ≥ 90 % | {told} | yes |" in text
    assert "k = half, int8, against the best peer library | ≥ 7× | not measured |" in text
    assert "of an earlier run" not in text
    assert "Words between." in text
    write_report(tmp_path, document)
    assert document.read_text(encoding="utf-8") == text


def test_what_falls_short_is_said_to(tmp_path: Path, document: Path) -> None:
    _offline(tmp_path, SETTINGS, 71)
    write_report(tmp_path, document)
    text = document.read_text(encoding="utf-8")
    assert "72.0 (71.0–73.0) % of one a core | no |" in text


@pytest.mark.parametrize(("quick", "whole"), [(True, True), (False, False)])
def test_trials_and_halves_are_not_reported(
    tmp_path: Path, document: Path, quick: bool, whole: bool
) -> None:
    _offline(tmp_path, SETTINGS | {"quick": quick}, 93, whole=whole)
    assert "offline" in write_report(tmp_path, document)
    text = document.read_text(encoding="utf-8")
    assert "Not measured yet: `python -m benchmarks offline`." in text
    assert "93" not in text


def test_our_document_has_a_place_for_every_part() -> None:
    from benchmarks.tables import TABLES

    text = (ROOT / "docs" / "BENCHMARKS.md").read_text(encoding="utf-8")
    for part in (*TABLES, "goals", "machine"):
        assert f"<!-- begin {part} -->" in text
        assert f"<!-- end {part} -->" in text
