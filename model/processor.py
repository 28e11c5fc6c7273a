"""What this machine's processor can do, and how much of it this process may have."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

CPUS = Path("/proc/cpuinfo")


def is_x86(machine: str) -> bool:
    """Whether an architecture, as `platform.machine` names it, is Intel's or AMD's, of 64 bits."""
    return machine.lower() in ("x86_64", "amd64")


def processor_flags(cpus: Path = CPUS) -> frozenset[str]:
    """What an x86 processor's instructions are, as Linux names them; nothing where nothing tells.

    Args:
        cpus: Linux's list of processors.
    """
    try:
        lines = cpus.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())


def cores(root: Path = Path("/")) -> int:
    """How many cores this process may use.

    Those that it may run on, but no more than its group's share of time (`docker run --cpus`, a
    limit of Kubernetes') is worth, rounded up: threads beyond that only wait for their turn.

    Args:
        root: where `proc` and `sys` lie.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *_shares(root)]))


def _shares(root: Path) -> Iterator[int]:
    """The limits of this process's control groups (cgroup v2, v1), in cores."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        tree = root / "sys/fs/cgroup" / ("cpu" if "cpu" in controllers.split(",") else "")
        if controllers and tree.name != "cpu":
            continue
        group = tree / path.lstrip("/")
        while True:  # a limit holds for the groups below it too
            if (share := _share(group)) is not None:
                yield share
            if group == tree or tree not in group.parents:
                break
            group = group.parent


def _share(group: Path) -> int | None:
    """A group's own limit; None without one."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # ValueError: `max`
        return None
