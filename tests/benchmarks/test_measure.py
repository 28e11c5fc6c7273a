"""Medians, ranges, ratios."""

from __future__ import annotations

import pytest

from benchmarks.measure import medians, percentiles, ratio, spread


def test_a_spread_is_the_median_and_the_range() -> None:
    found = spread([3.0, 1.0, 2.0, 10.0])
    assert (found["median"], found["low"], found["high"], found["n"]) == (2.5, 1.0, 10.0, 4)
    assert found["rounds"] == [3.0, 1.0, 2.0, 10.0]


def test_a_machine_that_slows_down_for_both_does_not_change_the_ratio() -> None:
    found = ratio([100.0, 50.0, 10.0], [50.0, 25.0, 5.0])
    assert (found["low"], found["median"], found["high"]) == (2.0, 2.0, 2.0)


def test_rounds_that_do_not_belong_together_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        ratio([1.0, 2.0], [1.0])


def test_medians_are_of_each_round() -> None:
    rounds = [{"a": [1.0, 2.0, 9.0], "b": [4.0]}, {"a": [5.0], "b": [6.0, 8.0]}]
    assert medians(rounds) == {"a": [2.0, 5.0], "b": [4.0, 7.0]}


def test_percentiles_say_of_how_many() -> None:
    found = percentiles([float(one) for one in range(101)])
    assert found == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "n": 101}
