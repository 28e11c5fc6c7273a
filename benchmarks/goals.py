"""What the project sets itself to reach, and what was measured of it."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.markdown import number, shown, table
from benchmarks.models import SHIPPED
from benchmarks.results import values

Found = tuple[str, bool]


def of_parts(parts: dict[str, dict[str, Any]]) -> str:
    """A table of the goals; a part that is not there leaves its goals open."""
    rows = []
    for part, goal, wanted, read in _GOALS:
        measured, reached = "not measured", ""
        if part in parts:
            measured, good = read(values(parts[part]))
            reached = "yes" if good else "no"
        rows.append([goal, wanted, measured, reached])
    return table(["on this machine's cores", "goal", "measured", "reached"], rows)


def _ratio(ours: str, theirs: tuple[str, ...], least: float) -> Any:
    """Against the best of some contenders: the smallest ratio."""

    def read(steps: dict[str, Any]) -> Found:
        ratios = steps["rounds"]["ratios"][ours]
        worst = min((ratios[name] for name in theirs), key=lambda one: one["median"])
        return f"{shown(worst)}×", worst["median"] >= least

    return read


def _servers(steps: dict[str, Any]) -> Found:
    by_clients = {
        int(step.removeprefix("clients/")): found
        for step, found in steps.items()
        if step.startswith("clients/")
    }
    worst = {
        clients: min(one["median"] for one in found["ratios"]["ours-match"].values())
        for clients, found in sorted(by_clients.items())
    }
    told = ", ".join(f"{number(one)}× at {clients}" for clients, one in worst.items())
    return told, min(worst.values()) >= 10


def _not_falling(steps: dict[str, Any]) -> Found:
    by_clients = {int(name): one["per_second"]["median"] for name, one in steps["clients"].items()}
    rates = [rate for clients, rate in sorted(by_clients.items()) if clients <= 16]
    told = ", ".join(f"{number(rate)} at {clients}" for clients, rate in sorted(by_clients.items()))
    return f"{told} searches/s", min(rates) >= 0.97 * rates[0]


def _overhead(steps: dict[str, Any]) -> Found:
    over = {name: found["over_sessions_percent"]["http"] for name, found in steps.items()}
    told = ", ".join(f"{shown(one)} % for {name}" for name, one in over.items())
    return told, all(one["median"] <= 10 for one in over.values())


def _search(steps: dict[str, Any]) -> Found:
    spent = steps[SHIPPED]["milliseconds"]["http"]
    return f"{shown(spent)} ms", spent["median"] <= 100


def _started(steps: dict[str, Any]) -> Found:
    seconds = steps["start/10000"]["verified"]["answer"]
    return f"{shown(seconds)} s", seconds["median"] <= 3


def _resident(steps: dict[str, Any]) -> Found:
    most = max(one["beyond_snapshot"] for one in steps["memory/100000"]["megabytes"].values())
    return f"{number(most)} MB", most <= 700


def _encoded(processes: str, steps: dict[str, Any]) -> Found:
    shares = steps[SHIPPED]["share_percent"][processes]
    told = f"{shown(shares['wide'])} % of each by all cores, {shown(shares['sessions'])} % of one a"
    return f"{told} core", all(share["median"] >= 90 for share in shares.values())


_PEERS = ("sentence-transformers", "fastembed")
_GOALS: tuple[tuple[str, str, str, Any], ...] = (
    (
        "rerank-library",
        "k = 0 fp32 against bare ONNX Runtime, length-sorted, best batch",
        "≥ 1.15×",
        _ratio("k0-fp32", ("bare-onnxruntime",), 1.15),
    ),
    (
        "rerank-library",
        "k = half, int8, against the best peer library",
        "≥ 7×",
        _ratio("khalf-int8", _PEERS, 7),
    ),
    ("rerank-server", "the same over HTTP against the best peer server", "≥ 10×", _servers),
    ("growth", "throughput as clients are added", "not falling", _not_falling),
    ("overhead", "overhead over the bare sessions, over HTTP", "≤ 10 %", _overhead),
    ("overhead", "text search over 10,000 products, over HTTP, p50", "≤ 100 ms", _search),
    ("start", "start to first answer, 10,000 products", "≤ 3 s", _started),
    ("start", "memory beyond the memory map, 100,000 products", "≤ 700 MB", _resident),
    (
        "offline",
        "the offline job against the bare sessions, one process",
        "≥ 90 %",
        partial(_encoded, "job"),
    ),
    (
        "offline",
        "the offline job against the bare sessions, a process a core",
        "≥ 90 %",
        partial(_encoded, "processes"),
    ),
)
