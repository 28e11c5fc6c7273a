"""What is fitted on held-out products once the network is trained: two small things.

- The match probability (Platt's scaling), from positives and as many negatives.
- The strength of the residual match head's correction. The joint layers learn the training
  products by heart sooner than the recall head does, so their correction is over-confident on new
  ones; one factor, fitted on products they never saw, sets it right (stacking, Wolpert 1992).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from model.evaluate import Sample


def calibrate(
    positives: NDArray[np.float64], negatives: NDArray[np.float64]
) -> tuple[float, float]:
    """Platt's scaling: slope and intercept with sigmoid(slope · logit + intercept) a probability.

    Newton's method on the logistic likelihood, positives and negatives weighing the same.
    """
    logits = np.concatenate([positives, negatives])
    labels = np.concatenate([np.ones(len(positives)), np.zeros(len(negatives))])
    weights = np.concatenate(
        [np.full(len(positives), 1 / len(positives)), np.full(len(negatives), 1 / len(negatives))]
    )
    features = np.stack([logits, np.ones_like(logits)], axis=1)
    solution = np.array([1.0, 0.0])
    for _ in range(50):
        probability = 1 / (1 + np.exp(-np.clip(features @ solution, -30, 30)))
        gradient = features.T @ (weights * (probability - labels)) + 1e-3 * (solution - [1.0, 0.0])
        curvature = weights * probability * (1 - probability)
        hessian = (features * curvature[:, None]).T @ features + 1e-3 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        solution -= step
        if np.abs(step).max() < 1e-8:
            break
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
    weights = np.array([1.0, 1.0])
    for _ in range(50):
        logits = features @ weights
        logits -= logits.max(axis=1, keepdims=True)
        chances = np.exp(logits)
        chances /= chances.sum(axis=1, keepdims=True)
        expected = (chances[..., None] * features).sum(axis=1)
        gradient = (expected - features[:, 0]).mean(axis=0)
        centred = features - expected[:, None, :]
        hessian = np.einsum("qc,qci,qcj->ij", chances, centred, centred) / len(features)
        step = np.linalg.solve(hessian + 1e-6 * np.eye(2), gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    similarity_weight, correction_weight = (float(weight) for weight in weights)
    if not np.isfinite(weights).all() or similarity_weight <= 0:
        return 1.0, 1.0
    return similarity_weight, max(0.0, correction_weight)
