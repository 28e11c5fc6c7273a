from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.processor import cores, is_x86, processor_flags


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


def share(root: Path, limits: dict[str, str], group: str = "0::/a/b") -> int:
    """The cores that a process has where its groups' files say so."""
    for name, text in {"proc/self/cgroup": f"{group}\n", **limits}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return cores(root)


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu"


def test_the_cores_that_a_process_may_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5, 7}, raising=False)
    assert cores(Path("/nothing/here")) == 3


@pytest.mark.parametrize(
    ("limits", "group", "expected"),
    [
        ({f"{V2}/a/b/cpu.max": "max 100000\n"}, "0::/a/b", 8),
        ({f"{V2}/a/b/cpu.max": "250000 100000\n"}, "0::/a/b", 3),
        ({f"{V2}/a/b/cpu.max": "10000 100000\n"}, "0::/a/b", 1),
        ({f"{V2}/a/b/cpu.max": "900000 100000\n"}, "0::/a/b", 8),
        # One above it holds for it too; in a container's own tree it is the topmost.
        ({f"{V2}/a/b/cpu.max": "max 1", f"{V2}/a/cpu.max": "2 1"}, "0::/a/b", 2),
        ({f"{V2}/cpu.max": "200000 100000\n"}, "0::/", 2),
        ({f"{V2}/cpu.max": "200000 100000\n"}, "0::/../outside", 2),
        ({f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "1"}, "3:cpu,x:/d/e", 8),
        ({f"{V1}/cpu.cfs_quota_us": "5", f"{V1}/cpu.cfs_period_us": "2"}, "3:cpu,x:/d/e", 3),
        ({f"{V2}/cpu.max": "nonsense"}, "0::/", 8),
        ({f"{V2}/cpu.max": "1 0"}, "0::/", 8),
        ({}, "0::/a", 8),
    ],
)
def test_a_share_of_time_is_so_many_cores(
    limits: dict[str, str],
    group: str,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert share(tmp_path, limits, group) == expected
