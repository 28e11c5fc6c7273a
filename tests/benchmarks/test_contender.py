"""Contenders: real processes that take turns."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.contender import Contender, best_batch, interleave, own_environment, started
from model.bundle import Bundle


def _wait_for_state(process: int, wanted: str) -> None:
    """`T` for a stopped process; a signal takes its moment."""
    stat = Path(f"/proc/{process}/stat")
    deadline = time.monotonic() + 30
    while stat.read_text(encoding="ascii").rpartition(")")[2].split()[0] != wanted:
        assert time.monotonic() < deadline, f"process {process} never got into state {wanted}"
        time.sleep(0.01)


def test_a_contender_computes_in_its_turn_and_stands_still_outside(bundle: Bundle) -> None:
    given = {"bundle": str(bundle.path), "queries": ["red dress", "blue hat"], "candidates": 4}
    with started(lambda: Contender("ours", "ours_engine.py", {**given, "threads": 1})) as found:
        (contender,) = found
        assert contender.facts["patches"] == bundle.manifest.patches
        assert len(contender.run(repeats=4)["ms"]) == 4
        assert all(one > 0 for one in contender.run(seconds=0.05, candidates=2)["ms"])
        _wait_for_state(contender.process.pid, "T")
    assert contender.process.returncode is not None


def test_one_that_cannot_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended"):
        Contender("ours", "ours_engine.py", {"bundle": str(tmp_path), "queries": ["a"]})


def test_every_round_has_everybody() -> None:
    taken: list[str] = []
    turns = {name: (lambda name=name: taken.append(name)) for name in "abc"}
    found = interleave(3, turns, "test")
    assert [list(each) for each in found] == [["a", "b", "c"]] * 3
    assert sorted(taken[:3]) == sorted(taken[3:6]) == ["a", "b", "c"]
    assert taken != ["a", "b", "c"] * 3  # not always the same after the same


def test_the_fastest_batch_is_taken() -> None:
    class Timed(Contender):
        def __init__(self) -> None:
            pass

        def run(self, **request: int) -> dict[str, list[float]]:
            return {"ms": [abs(request["batch"] - 16.0) + late for late in (9.0, 1.0)]}

    assert best_batch(Timed(), [4, 8, 16, 32]) == 16


def test_nothing_of_ones_own_sets_contenders_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("FASHIONBERT_THREADS", "1")
    monkeypatch.setenv("KEPT", "1")
    environment = own_environment({"MORE": "2"})
    assert "OMP_NUM_THREADS" not in environment
    assert "FASHIONBERT_THREADS" not in environment
    assert (environment["KEPT"], environment["MORE"]) == ("1", "2")
    assert environment["HF_HUB_OFFLINE"] == "1"
