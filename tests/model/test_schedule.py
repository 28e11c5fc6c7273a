from __future__ import annotations

import pytest

from model.errors import TrainingError
from model.schedule import hardness_at, learning_rate_at
from model.train_settings import TrainSettings, check_settings


def test_schedules() -> None:
    settings = TrainSettings(hard_from=0.1, hard_until=0.6)
    assert [hardness_at(p, settings) for p in (0.0, 0.1, 0.6, 1.0)] == [0, 0, 1, 1]
    assert hardness_at(0.35, settings) == pytest.approx(0.5)
    at_once = TrainSettings(hard_from=0.5, hard_until=0.5)
    assert [hardness_at(p, at_once) for p in (0.49, 0.51)] == [0, 1]
    rates = [learning_rate_at(step, 100, 0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[100] == 0
    assert [learning_rate_at(step, 1, 0.1) for step in (0, 1)] == [1, 0]


# Three steps on each of two processes, and what both of them then have.


def test_warming_up_by_a_number_of_steps() -> None:
    """The paper's: 5,000 steps, then linear decay."""
    rates = [learning_rate_at(step, 41_000, 5000) for step in (0, 2499, 4999, 23_000, 41_000)]
    assert rates == pytest.approx([1 / 5000, 1 / 2, 1, 1 / 2, 0])
    # A run too short for that takes half of itself.
    assert [learning_rate_at(step, 8, 5000) for step in range(9)] == [
        0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0
    ]  # fmt: skip
    assert learning_rate_at(0, 1, 5000) == 1


def test_negatives_harden_forwards() -> None:
    for wrong in ({"hard_from": 0.6, "hard_until": 0.1}, {"hard_until": 2.0}, {"hard_from": -0.1}):
        with pytest.raises(TrainingError, match=r"hard_from=.*hard_until=.*not above the second"):
            check_settings(TrainSettings(**wrong))
