"""What is fitted on held-out products once the network is trained: two small things.

- How much recall similarity, match logit and alignment weigh in the served score (stacking, Wolpert
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
        objective: value, gradient [F] and Hessian [F, F] at a point.
        start: where to begin, [F].
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

    Newton's method on the logistic likelihood, positives and negatives weighing the same. The
    logits are centred for it, as the weak prior is about no offset of all of them.
    """
    logits = np.concatenate([positives, negatives]).astype(np.float64)
    labels = np.concatenate([np.ones(len(positives)), np.zeros(len(negatives))])
    weights = np.concatenate(
        [np.full(len(positives), 1 / len(positives)), np.full(len(negatives), 1 / len(negatives))]
    )
    middle = float(weights @ logits) / 2
    features = np.stack([logits - middle, np.ones_like(logits)], axis=1)
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
    if not np.isfinite([*solution, middle]).all() or solution[0] <= 0:
        return 1.0, 0.0  # a model that ranks worse than chance has no honest probability
    slope, intercept = solution.tolist()
    return slope, intercept - slope * middle


def fit_stacking(
    samples: Sequence[Sample], aligned: Sequence[NDArray[np.float32]] = ()
) -> tuple[float, ...]:
    """Weights of similarity and match logit that make held-out right answers likeliest.

    Finds (a, c) in a · similarity + c · logit, or (a, c, d) with + d · alignment, under a softmax
    over each query's scored candidates; the likelihood is concave in all of them.

    Args:
        samples: of the bare match logits; queries whose right answer is not scored do not count.
        aligned: token-to-patch alignments [Q, C] of each sample, where the network has them.

    Returns:
        (a, c) or (a, c, d), none below 0 and 0 for what does not help.
    """
    parts = [_scores(samples, aligned, at) for at in range(len(samples))]
    scored = np.concatenate([sample.scored for sample in samples])
    features = np.concatenate(parts)[scored[:, 0]]  # [Q, C, F]
    scored = scored[scored[:, 0]]
    # Next to no weight, but a useless score stays finite.
    prior = np.array([10.0, 1.0, 10.0])[: features.shape[-1]]
    if not len(features):
        return tuple(prior.tolist())
    used = np.ones(len(prior), dtype=np.bool_)
    while used.any():
        weights = np.zeros(len(prior))
        weights[used] = _most_likely(features[..., used], scored, prior[used])
        if not np.isfinite(weights).all():
            break
        if weights.min() >= 0:
            return tuple(weights.tolist())
        used &= weights > weights.min()  # what misleads most goes, the others are fitted again
    return (10.0, *[0.0] * (len(prior) - 1))  # nothing ranks better than chance: the recall's order


def _scores(
    samples: Sequence[Sample], aligned: Sequence[NDArray[np.float32]], at: int
) -> NDArray[np.float64]:
    """[Q, C, F]: recall similarity, match logit, and alignment where it is there."""
    scores = [samples[at].recalled, samples[at].logits, *aligned[at : at + 1]]
    return np.stack(scores, axis=-1).astype(np.float64)


def _most_likely(features: NDArray[np.float64], scored: NDArray[np.bool_], prior: _Point) -> _Point:
    """Weights [F] of features [Q, C, F] with the right answer in column 0."""

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
            hessian + 1e-6 * np.eye(len(point)),
        )

    return _minimise(objective, prior)


def stacked_rank1(samples: Sequence[Sample], aligned: Sequence[NDArray[np.float32]] = ()) -> float:
    """Rank@1 in percent of the fitted score over what is scored, mean of the directions."""
    weights = np.array(fit_stacking(samples, aligned))
    shares = []
    for at, sample in enumerate(samples):
        scores = _scores(samples, aligned, at) @ weights
        scores[~sample.scored] = -np.inf
        first = sample.scored[:, 0] & (scores[:, 1:] < scores[:, :1]).all(axis=1)
        shares.append(100 * float(first.mean()))
    return float(np.mean(shares))
