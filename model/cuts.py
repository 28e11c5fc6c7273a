"""How rows are cut into passes."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def cut(
    lengths: NDArray[np.int32], extra: int, budget: int, window: int = 0, workers: int = 1
) -> list[Rows]:
    """Rows in passes of like length, so that little of a pass is padding.

    They are as many as keep all workers busy to the end, if they are not too small then: five
    passes on two cores take as long as six, so it is six smaller ones.

    Args:
        lengths: int32 [B], the tokens of each row's text.
        extra: tokens that each row has beside them: its patches.
        budget: most tokens of a pass, padding included; a row that is longer is alone.
        window: so many rows are sorted among themselves before the next ones follow; 0 is all.
        workers: run passes at the same time.
    """
    passes: list[Rows] = []
    for start in range(0, len(lengths), window or max(1, len(lengths))):
        part = lengths[start : start + window] if window else lengths
        if (part == part[0]).all():  # one text against pictures, which is asked most often
            passes += _alike(start, len(part), int(part[0]) + extra, budget, workers)
            continue
        order = np.argsort(part, kind="stable")
        costs = part[order].astype(np.int64) + extra
        fewest = _filled(costs, budget)
        most = max(len(fewest), int(2 * costs.sum()) // budget)  # of half the budget
        ends = _even(costs, min(most, -(-len(fewest) // workers) * workers))
        if np.max(np.diff(ends, prepend=0) * costs[ends - 1]) > budget:  # padding is uneven
            ends = fewest
        passes += [rows + start for rows in np.split(order, ends[:-1])]
    return passes


def _alike(start: int, count: int, cost: int, budget: int, workers: int) -> list[Rows]:
    """What the rest of `cut` comes to where all rows cost the same."""
    fewest = -(-count // max(1, budget // cost))
    most = max(fewest, 2 * count * cost // budget)
    passes = min(most, -(-fewest // workers) * workers)
    ends = [start + count * number // passes for number in range(passes + 1)]
    return [np.arange(first, end) for first, end in itertools.pairwise(ends) if first < end]


def _filled(costs: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Where passes end if each takes as many rows as it can; costs are ascending."""
    ends, first = [], 0
    for row in range(1, len(costs)):
        if (row + 1 - first) * int(costs[row]) > budget:
            ends.append(row)
            first = row
    return np.array([*ends, len(costs)], dtype=np.int64)


def _even(costs: NDArray[np.int64], passes: int) -> NDArray[np.int64]:
    """Where at most so many passes end if all cost about the same."""
    middles = np.cumsum(costs) - costs / 2
    numbers = (middles * passes / costs.sum()).astype(np.int64)
    return np.append(np.flatnonzero(np.diff(numbers)) + 1, len(costs))
