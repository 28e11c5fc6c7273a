"""Medians, ranges and ratios of what was measured in rounds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Spread:
    """The median, the smallest and the largest of `n` rounds."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values), len(values))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """`Spread.of` with what it was made of, as JSON has it."""
    return {**asdict(Spread.of(values)), "rounds": [round(value, 4) for value in values]}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Ours over theirs, round by round: what drifts with the machine drifts out.

    Args:
        ours: a figure a round.
        theirs: of the same rounds.
    """
    return spread([a / b for a, b in zip(ours, theirs, strict=True)])


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99, and of how many."""
    found = np.percentile(milliseconds, (50, 95, 99)).round(3).tolist()
    return dict(zip(("p50", "p95", "p99"), found, strict=True)) | {"n": len(milliseconds)}


def medians(rounds: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """The median of each contender in each round; `rounds` hold milliseconds by contender."""
    return {name: [statistics.median(each[name]) for each in rounds] for name in rounds[0]}
