"""What is fitted on held-out products once the network is trained: two small things.

- The match probability (Platt's scaling), from positives and as many negatives.
- The strength of the residual match head's correction. The joint layers learn the training
  products by heart sooner than the recall head does, so their correction is over-confident on new
  ones; one factor, fitted on products they never saw, sets it right (stacking, Wolpert 1992).
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


def fit_correction(samples: Sequence[Sample], scale: float, bias: float) -> tuple[float, float]:
    """Weights of similarity and correction that make held-out right answers likeliest.

    A match logit is scale · similarity + bias + correction. This finds (a, c) with
    a · scale · similarity + c · correction, under a softmax over each query's candidates, by
    Newton's method; the likelihood is concave in both.

    Args:
        samples: with every candidate scored.
        scale: the head's `similarity_scale`.
        bias: the head's `similarity_bias`.

    Returns:
        (a, c); c is nought where the correction does not help.
    """
    parts = []
    for sample in samples:
        similarity = scale * sample.recalled.astype(np.float64)
        parts.append(np.stack([similarity, sample.logits - bias - similarity], axis=-1))
    features = np.concatenate(parts)  # [Q, C, 2]
    prior = np.array([1.0, 1.0])  # next to no weight, but a correction of nought stays as it is

    def objective(point: _Point) -> tuple[float, _Point, NDArray[np.float64]]:
        logits = features @ point
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

    weights = _minimise(objective, prior)
    similarity_weight, correction_weight = (float(weight) for weight in weights)
    if not np.isfinite(weights).all() or similarity_weight <= 0:
        return 1.0, 1.0
    return similarity_weight, max(0.0, correction_weight)
