from __future__ import annotations

from pathlib import Path

import pytest

from model.processor import is_x86, processor_flags


def test_the_flags_of_the_first_processor(tmp_path: Path) -> None:
    cpus = tmp_path / "cpuinfo"
    cpus.write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert processor_flags(cpus) == {"fpu", "avx2"}


@pytest.mark.parametrize("text", [None, "", "processor\t: 0\nFeatures\t: fp asimd\n"])
def test_where_nothing_tells(text: str | None, tmp_path: Path) -> None:
    cpus = tmp_path / "cpuinfo"
    if text is not None:
        cpus.write_text(text)
    assert processor_flags(cpus) == frozenset()


@pytest.mark.parametrize(
    ("machine", "x86"), [("x86_64", True), ("AMD64", True), ("aarch64", False), ("i686", False)]
)
def test_architectures(machine: str, x86: bool) -> None:
    assert is_x86(machine) is x86
