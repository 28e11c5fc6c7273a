"""Figures into docs/BENCHMARKS.md: what stands between two marks is made of the JSON files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import goals
from benchmarks.results import read
from benchmarks.tables import TABLES, of_part
from model.files import write_atomically

_MARKED = re.compile(r"(<!-- begin ([a-z-]+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def write_report(results: Path, document: Path) -> list[str]:
    """Fill in a document; returns the parts that are not measured.

    Args:
        results: folder of the JSON files.
        document: Markdown with `<!-- begin PART -->` and `<!-- end PART -->`; also `goals` and
            `machine`.
    """
    parts = {part: data for part in TABLES if (data := _reported(results, part)) is not None}
    text = fill(document.read_text(encoding="utf-8"), parts)
    write_atomically(document, text.encode())
    return [part for part in TABLES if part not in parts]


def fill(text: str, parts: Mapping[str, dict[str, Any]]) -> str:
    """The document's text with the tables of these parts; the others are said to be missing."""

    def made(match: re.Match[str]) -> str:
        return f"{match[1]}{_section(match[2], dict(parts))}\n{match[3]}"

    return _MARKED.sub(made, text)


def _reported(results: Path, part: str) -> dict[str, Any] | None:
    """A part's data, if it ran to its end and with settings that say something."""
    data = read(results, part)
    if data is None or data["finished"] is None or data["settings"]["quick"]:
        return None
    return data


def _section(name: str, parts: dict[str, dict[str, Any]]) -> str:
    if name == "goals":
        return goals.of_parts(parts)
    if name == "machine":
        return _machines(parts)
    if name not in parts:
        return f"Not measured yet: `python -m benchmarks {name}`."
    return of_part(parts[name])


def _machines(parts: dict[str, dict[str, Any]]) -> str:
    if not parts:
        return "Nothing measured yet."
    told: dict[str, list[str]] = {}
    for part, data in parts.items():
        machine, versions = data["machine"], data["versions"]
        flags = ", ".join(machine.get("flags", []))
        about = (
            f"{machine.get('processor')} (family {machine.get('family')}, model "
            f"{machine.get('model')}), {machine['usable_cores']} cores with "
            f"{machine.get('threads_per_core')} thread each, L2 {machine.get('l2')}, L3 "
            f"{machine.get('l3')}, {machine['memory_gib']} GiB, {flags}; virtual machine: "
            f"{machine.get('hypervisor', 'no')}. Linux {machine['kernel']}, Python "
            f"{machine['python']}, "
            + ", ".join(f"{package} {one}" for package, one in versions.items())
        )
        told.setdefault(about, []).append(part)
    if len(told) == 1:
        return f"{next(iter(told))}."
    return "\n".join(f"- {', '.join(names)}: {about}." for about, names in told.items())
