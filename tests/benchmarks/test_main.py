"""The command: parts one after the other, whatever becomes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.results import Results, read, values
from benchmarks.settings import Settings


def test_a_part_that_fails_loses_neither_its_steps_nor_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [True]
    computed: list[str] = []

    def part(name: str, settings: Settings) -> None:
        def compute() -> str:
            computed.append(name)
            return name

        results = Results(settings.results, name, settings.measured)
        results.step("first", compute)
        if name == "limit" and broken:
            raise RuntimeError("the contender ended")
        results.step("second", compute)
        results.finish()

    for name in ("rerank-library", "limit", "start"):
        monkeypatch.setitem(command.PARTS, name, lambda given, name=name: part(name, given))
    arguments = ["limit", "rerank-library", "start"]
    arguments += ["--work", str(tmp_path), "--results", str(tmp_path / "results")]
    assert command.main(arguments) == 1
    said = capsys.readouterr().err
    assert "the contender ended" in said
    assert "failed: limit; run them again" in said
    for name, steps in (("rerank-library", 2), ("limit", 1), ("start", 2)):
        data = read(tmp_path / "results", name)
        assert data is not None
        assert len(values(data)) == steps
    broken.clear()
    assert command.main(arguments) == 0
    assert sorted(computed) == ["limit"] * 2 + ["rerank-library"] * 2 + ["start"] * 2
    assert command.main([*arguments, "--again"]) == 0
    assert len(computed) == 12


def test_trials_go_into_a_folder_apart(tmp_path: Path) -> None:
    arguments = ["limit", "--quick", "--work", str(tmp_path)]
    what, settings, again = command.parse(arguments)
    assert (what, again) == (["limit"], False)
    assert settings.results == tmp_path / "quick" / "results"
    assert settings.peers == tmp_path / "peers"
    assert settings.quick
