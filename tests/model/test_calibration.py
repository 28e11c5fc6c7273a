from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.calibration import calibrate, fit_stacking, stacked_rank1
from model.evaluate import Sample


def loss(positives: np.ndarray, negatives: np.ndarray, slope: float, intercept: float) -> float:
    right = np.logaddexp(0, -(slope * positives + intercept)).mean()
    wrong = np.logaddexp(0, slope * negatives + intercept).mean()
    return float(right + wrong)


@pytest.mark.parametrize(
    ("mean", "deviation", "shift"),
    [(1, 1, 0), (1, 1, -2), (5, 5, 0), (5, 5, 10), (10, 15, -30), (50, 60, 100), (0.1, 0.3, 0)],
)
def test_what_made_the_logits_is_found_again(mean: float, deviation: float, shift: float) -> None:
    """Normal logits N(± mean, deviation²) + shift: their log odds are a straight line."""
    rng = np.random.default_rng(0)
    positives = rng.normal(shift + mean, deviation, 20_000)
    negatives = rng.normal(shift - mean, deviation, 20_000)
    slope, intercept = calibrate(positives, negatives)
    expected = 2 * mean / deviation**2
    assert slope == pytest.approx(expected, rel=0.06)
    middle = -intercept / slope  # where the probability is one half
    assert middle == pytest.approx(shift, abs=0.1 * deviation)


def test_unequal_numbers_weigh_the_same() -> None:
    rng = np.random.default_rng(1)
    positives, negatives = rng.normal(2, 2, 4000), rng.normal(-2, 2, 40_000)
    slope, intercept = calibrate(positives, negatives)
    assert slope == pytest.approx(1, rel=0.1)
    assert intercept == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("gap", [0.2, 1.0, 6.0])
def test_no_neighbour_is_likelier(scale: float, gap: float) -> None:
    rng = np.random.default_rng(2)
    positives, negatives = scale * rng.normal(gap, 1, 300), scale * rng.normal(0, 1, 500)
    slope, intercept = calibrate(positives, negatives)
    assert slope > 0

    def penalised(a: float, b: float) -> float:
        return loss(positives, negatives, a, b) + 5e-4 * ((a - 1) ** 2 + (b + a * middle) ** 2)

    middle = (positives.mean() + negatives.mean()) / 2
    best = penalised(slope, intercept)
    for factor in (0.9, 0.99, 1.01, 1.1):
        turned = intercept + slope * (1 - factor) * middle  # about the middle
        assert best <= penalised(slope * factor, turned) + 1e-12
        assert best <= penalised(slope, intercept * factor + factor - 1) + 1e-12


def test_an_offset_of_all_logits_changes_no_probability() -> None:
    rng = np.random.default_rng(3)
    positives, negatives = rng.normal(1, 3, 300), rng.normal(-1, 3, 500)
    slope, intercept = calibrate(positives, negatives)
    there, moved = calibrate(positives + 60, negatives + 60)
    assert there == pytest.approx(slope)
    assert moved == pytest.approx(intercept - 60 * slope)


LOGITS = arrays(np.float32, st.integers(1, 12), elements=st.floats(-1e4, 1e4, width=32))


@settings(max_examples=200, deadline=None)
@given(LOGITS, LOGITS)
def test_any_logits_give_a_finite_rising_line(positives: np.ndarray, negatives: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        slope, intercept = calibrate(positives.astype(float), negatives.astype(float))
    assert np.isfinite([slope, intercept]).all()
    assert slope > 0


def test_what_holds_no_information_is_left_as_it_is() -> None:
    same = np.full(50, 3.0)
    slope, intercept = calibrate(same, same)
    assert slope * 3 + intercept == pytest.approx(0, abs=1e-2), "an even chance"
    assert slope > 0
    worse = np.array([-5.0, -4.0]), np.array([4.0, 5.0])
    assert calibrate(*worse) == (1.0, 0.0)
    nothing = np.array([np.nan])
    with np.errstate(invalid="ignore"):
        assert calibrate(nothing, nothing) == (1.0, 0.0)


def sample(
    similarity: tuple[float, float], logit: tuple[float, float], queries: int = 1500
) -> Sample:
    """Normal scores: (by how much the right one's mean is higher, standard deviation) of each.

    The best weight of a normal score under a softmax is difference / variance.
    """
    rng = np.random.default_rng(6)
    shape = (queries, 31)
    scores = []
    for difference, deviation in (similarity, logit):
        drawn = rng.normal(0, deviation, shape)
        drawn[:, 0] += difference
        scores.append(drawn.astype(np.float32))
    return Sample(scores[0], scores[1] - 3, np.ones(shape, dtype=np.bool_))


@pytest.mark.parametrize(
    ("logit", "weight"),
    [((1.0, 1.0), 1.0), ((2.0, 2.0), 0.5), ((8.0, 8.0), 0.125), ((0.5, 0.5), 2.0)],
)
def test_informative_logits_get_their_weight(logit: tuple[float, float], weight: float) -> None:
    drawn = sample((0.2, 0.3), logit)
    of_similarity, of_logit = fit_stacking([drawn, drawn])
    assert of_similarity == pytest.approx(0.2 / 0.3**2, rel=0.15)
    assert of_logit == pytest.approx(weight, rel=0.12)


@pytest.mark.parametrize("deviation", [0.5, 5.0, 50.0])
def test_logits_of_noise_get_next_to_no_weight(deviation: float) -> None:
    of_similarity, of_logit = fit_stacking([sample((0.3, 0.3), (0, deviation))])
    assert of_similarity > 0
    assert 0 <= of_logit * deviation < 0.08


@pytest.mark.parametrize(
    ("similarity", "logit", "zero"), [((0.3, 0.3), (-2, 2), 1), ((-0.3, 0.3), (2, 2), 0)]
)
def test_what_misleads_gets_no_weight(
    similarity: tuple[float, float], logit: tuple[float, float], zero: int
) -> None:
    weights = fit_stacking([sample(similarity, logit)])
    assert weights[zero] == 0
    assert weights[1 - zero] > 0


def test_stacking_ranks_better_than_either_alone() -> None:
    drawn = sample((0.4, 0.3), (6, 8))
    of_similarity, of_logit = fit_stacking([drawn])

    def rank1(scores: np.ndarray) -> float:
        return 100 * float((scores.argmax(axis=1) == 0).mean())

    fitted = rank1(of_similarity * drawn.recalled + of_logit * drawn.logits)
    assert fitted > max(rank1(drawn.recalled), rank1(drawn.logits)) + 5
    assert stacked_rank1([drawn]) == pytest.approx(fitted)


def test_only_what_is_scored_counts() -> None:
    drawn = sample((0.4, 0.3), (6, 8))
    scored = drawn.scored.copy()
    scored[:, 20:] = False
    scored[:300] = False  # the right answer of these was not among the recall's first
    logits = np.where(scored, drawn.logits, 1e6).astype(np.float32)
    partly = Sample(drawn.recalled, logits, scored)
    expected = Sample(drawn.recalled[300:, :20], drawn.logits[300:, :20], scored[300:, :20])
    assert fit_stacking([partly]) == pytest.approx(fit_stacking([expected]), rel=1e-6)
    share = (len(scored) - 300) / len(scored)
    assert stacked_rank1([partly]) == pytest.approx(stacked_rank1([expected]) * share)


@pytest.mark.parametrize("level", [0.0, -7.0, 1e4])
def test_scores_that_are_all_equal_stay_finite(level: float) -> None:
    equal = Sample(
        np.full((5, 4), 0.25, dtype=np.float32),
        np.full((5, 4), level, dtype=np.float32),
        np.ones((5, 4), dtype=np.bool_),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(fit_stacking([equal])).all()
    assert stacked_rank1([equal]) == 0  # a tie goes to the others


def test_perfect_and_hopeless_samples_stay_finite() -> None:
    recalled = np.array([[1, -1, -1]] * 9, dtype=np.float32)
    scored = np.ones((9, 3), dtype=np.bool_)
    perfect = fit_stacking([Sample(recalled, 5 * recalled, scored)])
    assert np.isfinite(perfect).all()
    assert min(perfect) > 0
    similarity, logit = fit_stacking([Sample(-recalled, -25 * recalled, scored)])
    assert similarity > 0  # neither helps: the recall's order is left
    assert logit == 0
    broken = Sample(recalled, np.full((9, 3), np.nan, dtype=np.float32), scored)
    assert np.isfinite(fit_stacking([broken])).all()
    unscored = Sample(recalled, recalled, np.zeros((9, 3), dtype=np.bool_))
    assert fit_stacking([unscored]) == (10.0, 1.0)


def test_an_alignment_gets_its_weight_too() -> None:
    drawn = sample((0.2, 0.3), (2.0, 2.0))
    aligned = sample((0.2, 0.25), (1, 1), queries=1500).recalled[::-1].copy()
    weights = fit_stacking([drawn], [aligned])
    expected = (0.2 / 0.3**2, 0.5, 0.2 / 0.25**2)
    assert weights == pytest.approx(expected, rel=0.2)
    assert stacked_rank1([drawn], [aligned]) > stacked_rank1([drawn]) + 1


@pytest.mark.parametrize("misleads", [0, 1, 2])
def test_of_three_only_what_misleads_is_left_out(misleads: int) -> None:
    scores = [sample((0.3, 0.4), (1, 1)).recalled]
    rng = np.random.default_rng(11)
    for _ in range(2):
        drawn = rng.normal(0, 0.4, scores[0].shape).astype(np.float32)
        drawn[:, 0] += 0.3
        scores.append(drawn)
    scores[misleads] = -scores[misleads]
    rows = Sample(scores[0], scores[1], np.ones(scores[0].shape, dtype=np.bool_))
    weights = fit_stacking([rows], [scores[2]])
    assert weights[misleads] == 0
    assert min(weight for at, weight in enumerate(weights) if at != misleads) > 0.5
