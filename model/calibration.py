"""What is fitted on held-out products once the network is trained: two small things.

- How much the recall similarity and the match logit weigh in the served score (stacking, Wolpert
  1992). The joint layers learn the training products by heart sooner than the recall head does, so
  what each is worth on new products can only be seen on such.
- The match probability (Platt's scaling), from positives and as many negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from model.evaluate import Sample

_Point = NDArray[np.float64]


def _minimise(
    objective: Callable[[_Point], tuple[float, _Point, NDArray[np.float64]]], start: _Point
) -> _Point:
    """Newton's method on a strictly convex function; a step is halved until it leads downwards.

    Undamped it runs away where the logits saturate, as there is hardly any curvature there.

    Args:
        objective: value, gradient [2] and Hessian [2, 2] at a point.
        start: where to begin, [2].
    """
    point = start
    value, gradient, hessian = objective(point)
    for _ in range(100):
        step = np.linalg.solve(hessian, gradient)
        descent = float(gradient @ step)
        if not descent > 1e-14:  # there, or not a number
            break
        for _ in range(60):
            tried = objective(point - step)
            if tried[0] <= value - 1e-4 * descent:
                break
            step, descent = step / 2, descent / 2
        else:
            break
        point = point - step
        value, gradient, hessian = tried
    return point


def calibrate(
    positives: NDArray[np.float64], negatives: NDArray[np.float64]
) -> tuple[float, float]:
    """Platt's scaling: slope and intercept with sigmoid(slope · logit + intercept) a probability.

    Newton's method on the logistic likelihood, positives and negatives weighing the same.
    """
    logits = np.concatenate([positives, negatives]).astype(np.float64)
    labels = np.concatenate([np.ones(len(positives)), np.zeros(len(negatives))])
    weights = np.concatenate(
        [np.full(len(positives), 1 / len(positives)), np.full(len(negatives), 1 / len(negatives))]
    )
    features = np.stack([logits, np.ones_like(logits)], axis=1)
    prior = np.array([1.0, 0.0])

    def objective(point: _Point) -> tuple[float, _Point, NDArray[np.float64]]:
        scaled = features @ point
        probability = 1 / (1 + np.exp(-np.clip(scaled, -60, 60)))
        loss = weights @ (np.logaddexp(0, scaled) - labels * scaled)
        curvature = weights * probability * (1 - probability)
        return (
            float(loss) + 5e-4 * float((point - prior) @ (point - prior)),
            features.T @ (weights * (probability - labels)) + 1e-3 * (point - prior),
            (features * curvature[:, None]).T @ features + 1e-3 * np.eye(2),
        )

    solution = _minimise(objective, prior)
    if not np.isfinite(solution).all() or solution[0] <= 0:
        return 1.0, 0.0  # a model that ranks worse than chance has no honest probability
    return float(solution[0]), float(solution[1])


def fit_stacking(samples: Sequence[Sample]) -> tuple[float, float]:
    """Weights of similarity and match logit that make held-out right answers likeliest.

    Finds (a, c) in a · similarity + c · logit under a softmax over each query's scored
    candidates; the likelihood is concave in both.

    Args:
        samples: of the bare match logits; queries whose right answer is not scored do not count.

    Returns:
        (a, c), neither below 0 and c 0 where the logits do not help.
    """
    parts = [np.stack([sample.recalled, sample.logits], axis=-1) for sample in samples]
    scored = np.concatenate([sample.scored for sample in samples])
    features = np.concatenate(parts).astype(np.float64)[scored[:, 0]]  # [Q, C, 2]
    scored = scored[scored[:, 0]]
    prior = np.array([10.0, 1.0])  # next to no weight, but a useless feature stays finite
    if not len(features):
        return 10.0, 1.0

    def objective(point: _Point) -> tuple[float, _Point, NDArray[np.float64]]:
        logits = np.where(scored, features @ point, -np.inf)
        logits -= logits.max(axis=1, keepdims=True)
        chances = np.exp(logits)
        totals = chances.sum(axis=1, keepdims=True)
        chances /= totals
        expected = (chances[..., None] * features).sum(axis=1)
        centred = features - expected[:, None, :]
        loss = float((np.log(totals[:, 0]) - logits[:, 0]).mean())
        hessian = np.einsum("qc,qci,qcj->ij", chances, centred, centred) / len(features)
        return (
            loss + 5e-7 * float((point - prior) @ (point - prior)),
            (expected - features[:, 0]).mean(axis=0) + 1e-6 * (point - prior),
            hessian + 1e-6 * np.eye(2),
        )

    similarity, match = (float(weight) for weight in _minimise(objective, prior))
    if not (np.isfinite(similarity) and np.isfinite(match)) or max(similarity, match) <= 0:
        return 10.0, 0.0  # neither ranks better than chance: leave the recall's order
    return max(0.0, similarity), max(0.0, match)


def stacked_rank1(samples: Sequence[Sample]) -> float:
    """Rank@1 in percent of the fitted score over what is scored, mean of the directions."""
    similarity, match = fit_stacking(samples)
    shares = []
    for sample in samples:
        scores = similarity * sample.recalled.astype(np.float64) + match * sample.logits
        scores[~sample.scored] = -np.inf
        first = sample.scored[:, 0] & (scores[:, 1:] < scores[:, :1]).all(axis=1)
        shares.append(100 * float(first.mean()))
    return float(np.mean(shares))
