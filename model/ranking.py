"""Retrieval protocols and their figures, in numpy: who competes with whom, and who wins.

Products compete, never pictures: a product with several views scores by its best. Products with
the identical text are equally right and never each other's negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Candidates of the paper's protocol: 1 positive and 100 negatives (§4.3).
NEGATIVES = 100


@dataclass(frozen=True, slots=True)
class RankFigures:
    """Shares are percentages; `low` and `high` bound Rank@1's 95 % bootstrap interval.

    `rank_last` is Rank@C over C candidates, which must read 100.
    """

    queries: int
    candidates: int
    rank1: float
    rank5: float
    rank10: float
    mean_rank: float
    rank_last: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def rank_figures(ranks: NDArray[np.int64], candidates: int, seed: int = 0) -> RankFigures:
    """Figures from the rank of each query's right answer (1 = first)."""

    def within(k: int) -> float:
        return round(100 * float((ranks <= k).mean()), 2)

    rng = np.random.default_rng(seed)
    first = (ranks <= 1).astype(np.float32)
    resampled = rng.choice(first, (1000, len(first))).mean(axis=1) * 100
    low, high = np.percentile(resampled, [2.5, 97.5])
    return RankFigures(
        queries=len(ranks),
        candidates=candidates,
        rank1=within(1),
        rank5=within(5),
        rank10=within(10),
        mean_rank=round(float(ranks.mean()), 2),
        rank_last=within(candidates),
        low=round(float(low), 2),
        high=round(float(high), 2),
    )


def number_by_value(values: Sequence[object]) -> NDArray[np.int64]:
    """Give equal values the same number."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def sampled_candidates(
    text_numbers: NDArray[np.int64],
    groups: NDArray[np.int64],
    queries: NDArray[np.int64],
    *,
    negatives: int = NEGATIVES,
    seed: int = 0,
) -> NDArray[np.int64]:
    """The paper's candidates: each query's product first, then negatives of its own group.

    A group with too few is topped up from the others; a catalogue with too few gives what it has.

    Args:
        text_numbers: int64 [N], equal where the texts are.
        groups: int64 [N], the sub-category.
        queries: rows of the products asked for, [Q].
        negatives: how many to draw.
        seed: of the draw.

    Returns:
        int64 [Q, 1 + negatives].
    """
    rng = np.random.default_rng(seed)
    everything = np.arange(len(text_numbers))
    rows = []
    for query in queries:
        other_text = text_numbers != text_numbers[query]
        akin = everything[other_text & (groups == groups[query])]
        chosen = rng.permutation(akin)[:negatives]
        if len(chosen) < negatives:
            rest = everything[other_text & (groups != groups[query])]
            chosen = np.concatenate([chosen, rng.permutation(rest)[: negatives - len(chosen)]])
        rows.append(np.concatenate([[query], chosen]))
    width = min(len(row) for row in rows)
    return np.stack([row[:width] for row in rows]).astype(np.int64)


def ranks_among(scores: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Rank of column 0 in each row of [Q, C]; a tie goes to the others: no model gains by one.

    Nor does one by a score that is not a number, which is below nothing.
    """
    above = np.count_nonzero(~(scores[:, 1:] < scores[:, :1]), axis=1)
    return np.asarray(1 + above, dtype=np.int64)


def ranks_in_full(
    scores: NDArray[np.floating[Any]],
    queries: NDArray[np.int64],
    text_numbers: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Rank of the best right answer among all N products; the identical text is right too.

    Args:
        scores: [Q, N].
        queries: [Q], each query's own product.
        text_numbers: int64 [N].
    """
    right = text_numbers[None, :] == text_numbers[queries][:, None]
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    above = np.count_nonzero(~(scores < best) & ~right, axis=1)
    return np.asarray(1 + above, dtype=np.int64)
