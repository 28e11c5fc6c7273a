"""What this machine's processor can do."""

from __future__ import annotations

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
