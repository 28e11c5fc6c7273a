from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.calibration import calibrate, fit_correction
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
        return loss(positives, negatives, a, b) + 5e-4 * ((a - 1) ** 2 + b**2)

    best = penalised(slope, intercept)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert best <= penalised(slope * factor, intercept) + 1e-12
        assert best <= penalised(slope, intercept * factor + factor - 1) + 1e-12


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
    *,
    scale: float,
    similarity: tuple[float, float],
    correction: tuple[float, float],
    bias: float = -3.0,
    queries: int = 1500,
) -> Sample:
    """Normal scores: (by how much the right one's mean is higher, standard deviation) of each.

    The best weight of a normal score under a softmax is difference / variance.
    """
    rng = np.random.default_rng(6)
    shape = (queries, 31)
    similarities = rng.normal(0, similarity[1], shape)
    similarities[:, 0] += similarity[0]
    corrections = rng.normal(0, correction[1], shape)
    corrections[:, 0] += correction[0]
    recalled = similarities.astype(np.float32)
    logits = (scale * recalled + bias + corrections).astype(np.float32)
    return Sample(recalled, logits, np.ones(shape, dtype=np.bool_))


@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
@pytest.mark.parametrize(
    ("correction", "weight"),
    [((1.0, 1.0), 1.0), ((2.0, 2.0), 0.5), ((8.0, 8.0), 0.125), ((0.5, 0.5), 2.0)],
)
def test_an_informative_correction_gets_its_weight(
    scale: float, correction: tuple[float, float], weight: float
) -> None:
    drawn = sample(scale=scale, similarity=(0.2, 0.3), correction=correction)
    of_similarity, of_correction = fit_correction([drawn, drawn], scale, -3.0)
    assert of_similarity * scale == pytest.approx(0.2 / 0.3**2, rel=0.15)
    assert of_correction == pytest.approx(weight, rel=0.12)


@pytest.mark.parametrize("deviation", [0.5, 5.0, 50.0])
def test_a_correction_of_noise_gets_next_to_none(deviation: float) -> None:
    drawn = sample(scale=20, similarity=(0.3, 0.3), correction=(0, deviation))
    of_similarity, of_correction = fit_correction([drawn], 20, -3.0)
    assert of_similarity > 0
    assert 0 <= of_correction * deviation < 0.08


def test_a_correction_that_misleads_gets_none() -> None:
    drawn = sample(scale=20, similarity=(0.3, 0.3), correction=(-2, 2))
    of_similarity, of_correction = fit_correction([drawn], 20, -3.0)
    assert of_similarity > 0
    assert of_correction == 0


def test_the_fit_ranks_no_worse_than_either_alone() -> None:
    drawn = sample(scale=20, similarity=(0.4, 0.3), correction=(6, 8))
    of_similarity, of_correction = fit_correction([drawn], 20, -3.0)
    similarity = 20 * drawn.recalled
    correction = drawn.logits + 3 - similarity

    def rank1(scores: np.ndarray) -> float:
        return float((scores.argmax(axis=1) == 0).mean())

    fitted = rank1(of_similarity * similarity + of_correction * correction)
    assert fitted > max(rank1(similarity), rank1(correction), rank1(drawn.logits))


@pytest.mark.parametrize("level", [0.0, -7.0, 1e4])
def test_scores_that_are_all_equal_stay_finite(level: float) -> None:
    equal = Sample(
        np.full((5, 4), 0.25, dtype=np.float32),
        np.full((5, 4), level, dtype=np.float32),
        np.ones((5, 4), dtype=np.bool_),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_correction([equal], 20, -3.0) == (1.0, 1.0)


def test_a_head_that_corrects_nothing_stays_as_it_is() -> None:
    drawn = sample(scale=20, similarity=(0.3, 0.3), correction=(0, 0))
    of_similarity, of_correction = fit_correction([drawn], 20, -3.0)
    assert of_similarity * 20 == pytest.approx(0.3 / 0.3**2, rel=0.1)
    assert of_correction == pytest.approx(1, abs=0.1)


def test_perfect_and_hopeless_samples_stay_finite() -> None:
    recalled = np.array([[1, -1, -1]] * 9, dtype=np.float32)
    scored = np.ones((9, 3), dtype=np.bool_)
    perfect = fit_correction([Sample(recalled, 20 * recalled + 5 * recalled, scored)], 20, 0)
    assert np.isfinite(perfect).all()
    assert min(perfect) > 0
    hopeless = Sample(-recalled, -25 * recalled, scored)
    assert fit_correction([hopeless], 20, 0) == (1.0, 1.0)
    broken = Sample(recalled, np.full((9, 3), np.nan, dtype=np.float32), scored)
    assert fit_correction([broken], 20, 0) == (1.0, 1.0)
