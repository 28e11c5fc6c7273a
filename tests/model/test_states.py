from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.states import QuantisedStates, quantise

FLOATS = st.floats(-(2.0**60), 2.0**60, width=32)


@settings(deadline=None)
@given(arrays(np.float32, (2, 3, 5), elements=FLOATS))
def test_what_comes_back_is_off_by_at_most_half_a_step(states: np.ndarray) -> None:
    quantised = quantise(states)
    assert quantised.values.dtype == np.int8
    assert quantised.scales.dtype == np.float32
    error = np.abs(quantised.dequantise().astype(np.float64) - states)
    # A ten thousandth of a step for float32's own rounding.
    assert (error <= quantised.scales[..., None].astype(np.float64) * 0.5001).all()


@settings(deadline=None)
@given(arrays(np.float32, (1, 2, 4), elements=FLOATS), st.integers(-20, 20))
def test_a_vectors_length_does_not_change_its_values(states: np.ndarray, power: int) -> None:
    states[..., 0] = 1 + np.abs(states).max()  # far above the smallest scale
    values = quantise(states).values
    np.testing.assert_array_equal(quantise(states * np.float32(2.0**power)).values, values)
    np.testing.assert_array_equal(quantise(-states).values, -values)


def test_the_largest_element_takes_the_whole_range() -> None:
    quantised = quantise(np.array([[[0.5, -2.0, 1.0]], [[0.0, 0.0, 7.0]]], dtype=np.float32))
    assert quantised.values.tolist() == [[[32, -127, 64]], [[0, 0, 127]]]
    np.testing.assert_allclose(quantised.scales, [[2 / 127], [7 / 127]], rtol=1e-6)


def test_each_vector_has_its_own_scale() -> None:
    states = np.random.default_rng(0).standard_normal((4, 3, 8)).astype(np.float32)
    states *= 10.0 ** np.arange(12, dtype=np.float32).reshape(4, 3, 1)
    together = quantise(states)
    for row in range(4):
        alone = quantise(states[row : row + 1])
        np.testing.assert_array_equal(alone.values[0], together.values[row])
        np.testing.assert_array_equal(alone.scales[0], together.scales[row])


def test_padding_has_scale_nought_and_nothing_else_has() -> None:
    states = np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)
    states[0, 0] = 0  # a vector of noughts is no padding
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    quantised = quantise(states, mask)
    np.testing.assert_array_equal(quantised.scales > 0, mask > 0)
    assert not quantised.values[mask == 0].any()
    assert not quantised.dequantise()[0, 0].any()
    np.testing.assert_array_equal(quantised.values[mask > 0], quantise(states).values[mask > 0])


def test_nothing_at_all() -> None:
    for shape in ((0, 3, 4), (0, 0, 4), (2, 0, 4)):
        quantised = quantise(np.zeros(shape, dtype=np.float32), np.zeros(shape[:2], dtype=np.int64))
        assert quantised.values.shape == shape
        assert quantised.dequantise().shape == shape


def test_rows_are_taken_from_both_arrays() -> None:
    values = np.arange(24, dtype=np.int8).reshape(4, 2, 3)
    scales = np.arange(8, dtype=np.float32).reshape(4, 2)
    states = QuantisedStates(values, scales)
    assert len(states) == 4
    for rows in (slice(1, 3), [3, 0, 3], np.array([2])):
        np.testing.assert_array_equal(states[rows].values, values[rows])
        np.testing.assert_array_equal(states[rows].scales, scales[rows])
