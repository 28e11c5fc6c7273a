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
#: Recall candidates that a two-stage search reranks, unless it is told how many.
CANDIDATES = 64
#: Bootstrap resamples behind each 95 % interval.
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class RankFigures:
    """Shares are percentages, each with its 95 % bootstrap interval.

    `low` and `high` bound Rank@1, `rank5_low` and so on the others, `mean_rank_low` and
    `mean_rank_high` the mean rank. `rank_last` is Rank@C over C candidates.
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
    rank5_low: float
    rank5_high: float
    rank10_low: float
    rank10_high: float
    mean_rank_low: float
    mean_rank_high: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def rank_figures(ranks: NDArray[np.int64], candidates: int, seed: int = 0) -> RankFigures:
    """Figures from the rank of each query's right answer (1 = first)."""

    def within(k: int) -> float:
        return round(100 * float((ranks <= k).mean()), 2)

    steps = [0, *(int(np.count_nonzero(ranks <= k)) for k in (1, 5, 10)), len(ranks)]
    shares = _resampled_shares(np.diff(steps), seed)[:, :3].cumsum(axis=1)
    (low, high), (low5, high5), (low10, high10) = (interval(column) for column in 100 * shares.T)
    values, counts = np.unique(ranks, return_counts=True)
    mean_low, mean_high = interval(_resampled_shares(counts, seed) @ values)
    return RankFigures(
        queries=len(ranks),
        candidates=candidates,
        rank1=within(1),
        rank5=within(5),
        rank10=within(10),
        mean_rank=round(float(ranks.mean()), 2),
        rank_last=within(candidates),
        low=low,
        high=high,
        rank5_low=low5,
        rank5_high=high5,
        rank10_low=low10,
        rank10_high=high10,
        mean_rank_low=mean_low,
        mean_rank_high=mean_high,
    )


def rank1_difference(
    ranks: NDArray[np.int64], others: NDArray[np.int64], seed: int = 0
) -> dict[str, float]:
    """How many points of Rank@1 one ranking is above another of the same queries.

    The bootstrap is paired: it draws queries and takes both rankings of each, so the interval
    (`low`, `high`) is far narrower than the difference of two intervals.
    """
    won = (ranks <= 1).astype(np.int64) - (others <= 1)
    counts = np.bincount(won + 1, minlength=3)  # lost, level, won
    shares = _resampled_shares(counts, seed)
    low, high = interval(100 * (shares[:, 2] - shares[:, 0]))
    return {"rank1": round(100 * float(won.mean()), 2), "low": low, "high": high}


def stage_figures(ranks: dict[str, NDArray[np.int64]], candidates: int) -> dict[str, Any]:
    """Figures of the same queries by stage.

    `two_stage` also gets `over_recall` and `over_rerank`: its `rank1_difference` from each.
    """
    figures = {stage: rank_figures(found, candidates).as_dict() for stage, found in ranks.items()}
    if "two_stage" in ranks:
        for stage in ("recall", "rerank"):
            if stage in ranks:
                difference = rank1_difference(ranks["two_stage"], ranks[stage])
                figures["two_stage"][f"over_{stage}"] = difference
    return figures


def _resampled_shares(counts: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Shares of each kind of query in bootstrap samples, [RESAMPLES, kinds].

    Drawing n queries with replacement draws the counts of their kinds from a multinomial.
    """
    total = int(counts.sum())
    drawn = np.random.default_rng(seed).multinomial(total, counts / total, size=RESAMPLES)
    shares: NDArray[np.float64] = drawn / total
    return shares


def interval(resampled: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of a figure's bootstrap values."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return round(float(low), 2), round(float(high), 2)


def pair_figures(
    positives: NDArray[np.float32], negatives: NDArray[np.float32], seed: int = 0
) -> dict[str, float]:
    """Accuracy (at a logit of 0) and AUC in percent, with 95 % bootstrap intervals.

    Args:
        positives: logits of true pairs, [Q, W], W pairs of each query's product.
        negatives: of a wrong pair each, likewise; all of a product's are drawn together.
        seed: of the bootstrap.
    """
    right = ((positives > 0).astype(np.float64) + (negatives <= 0)) / 2
    rng = np.random.default_rng(seed)
    accuracies, areas = [], []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, len(right), len(right))
        accuracies.append(100 * float(right[drawn].mean()))
        areas.append(100 * area_under_curve(positives[drawn], negatives[drawn]))
    (accuracy_low, accuracy_high), (auc_low, auc_high) = interval(accuracies), interval(areas)
    return {
        "accuracy": round(100 * float(right.mean()), 2),
        "accuracy_low": accuracy_low,
        "accuracy_high": accuracy_high,
        "auc": round(100 * area_under_curve(positives, negatives), 2),
        "auc_low": auc_low,
        "auc_high": auc_high,
    }


def area_under_curve(positives: NDArray[np.float32], negatives: NDArray[np.float32]) -> float:
    """Chance that a positive's logit is above a negative's, ties counted half; of any shapes.

    One that is not a number is on the wrong side of all others.
    """
    positives = np.where(np.isnan(positives), -np.inf, positives)
    ordered = np.sort(np.where(np.isnan(negatives), np.inf, negatives), axis=None)
    below = np.searchsorted(ordered, positives, side="left")
    not_above = np.searchsorted(ordered, positives, side="right")
    return float((below + not_above).mean() / 2 / len(ordered))


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

    A group with too few is topped up from the others; a catalogue with too few gives what it has,
    to all queries as much as to the one that it has least for.

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


def sound_pools(
    pools: NDArray[np.int64], queries: NDArray[np.int64], text_numbers: NDArray[np.int64]
) -> float:
    """Percentage of pools that ask what they should; any below 100 makes the figures worthless.

    Such a pool holds the query's own product once, first, where its rank is read; no other product
    with the identical text, which would be as right; and no product twice.

    Args:
        pools: candidates [Q, C].
        queries: [Q], each query's own product.
        text_numbers: int64 [N].
    """
    own_text = text_numbers[pools] == text_numbers[queries][:, None]
    sound = (pools[:, 0] == queries) & (own_text.sum(axis=1) == 1)
    ordered = np.sort(pools, axis=1)
    sound &= (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)
    return round(100 * float(sound.mean()), 2)


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


def recall_places(recalled: NDArray[np.float32]) -> NDArray[np.int64]:
    """Place (0 = first) of each candidate in its row of [Q, C].

    At equal similarity the right one, column 0, is last.
    """
    backwards = np.argsort(-recalled[:, ::-1], axis=1, kind="stable")
    places = np.empty_like(backwards)
    np.put_along_axis(places, backwards, np.arange(recalled.shape[1])[None, :], axis=1)
    return np.ascontiguousarray(places[:, ::-1])


def _largest(values: NDArray[np.floating[Any]]) -> float:
    """Of their sizes, the largest that is finite."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def two_stage_scores(
    recall: NDArray[np.float32], logits: NDArray[np.float32], reranked: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """One score that sorts as the two-stage search does: the reranked first, then by recall.

    In float64, so that lifting the logits does not round two of them to a tie. A logit that is not
    a number stays none, for `ranks_among`, and no infinite one moves the others.

    Args:
        recall: similarities, of any shape.
        logits: likewise; only those of the reranked count.
        reranked: likewise.
    """
    most = _largest(logits[reranked])
    counted = np.clip(logits.astype(np.float64), -most - 1, most + 1)
    lift = 2 + most + _largest(recall)
    scores: NDArray[np.float64] = np.where(reranked, counted + 2 * lift, recall)
    return scores
