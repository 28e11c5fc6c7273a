"""Figures that survive an end in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.results import Results, read, values

SETTINGS = {"rounds": 3, "quick": False}


def test_a_step_is_computed_once_and_kept_over_runs(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, int]:
        calls.append(1)
        return {"answer": 42}

    assert Results(tmp_path, "part", SETTINGS).step("one", compute) == {"answer": 42}
    again = Results(tmp_path, "part", SETTINGS)
    assert again.has("one")
    assert again.step("one", compute) == {"answer": 42}
    assert len(calls) == 1


def test_what_was_measured_before_a_failure_is_kept(tmp_path: Path) -> None:
    results = Results(tmp_path, "part", SETTINGS)
    results.step("one", lambda: 1)

    def fail() -> int:
        raise RuntimeError("the server ended")

    with pytest.raises(RuntimeError, match="server ended"):
        results.step("two", fail)
    again = Results(tmp_path, "part", SETTINGS)
    assert again.has("one")
    assert not again.has("two")
    assert not again.finished


def test_figures_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    first = Results(tmp_path, "part", SETTINGS)
    first.step("one", lambda: 1)
    first.finish()
    assert Results(tmp_path, "part", SETTINGS).finished
    other = Results(tmp_path, "part", SETTINGS | {"rounds": 4})
    assert not other.finished
    assert not other.has("one")


def test_the_file_tells_the_machine_and_its_load(tmp_path: Path) -> None:
    results = Results(tmp_path, "part", SETTINGS)
    results.step("one", lambda: [1, 2])
    results.finish(peers={"fastembed": {"fastembed": "1"}})
    data = read(tmp_path, "part")
    assert data is not None
    assert values(data) == {"one": [1, 2]}
    assert data["machine"]["usable_cores"] >= 1
    assert data["machine"]["memory_gib"] > 0
    assert "numpy" in data["versions"]
    assert len(data["steps"]["one"]["load_before"]) == 3
    assert data["steps"]["one"]["commit"] == machine.commit()
    assert data["peers"] == {"fastembed": {"fastembed": "1"}}
