"""Which index is built."""

from __future__ import annotations

import pytest

from index.recall_rules import choose_rule
from model.errors import SnapshotError


@pytest.mark.parametrize(
    ("count", "rule"),
    [
        (1, "exact"),
        (200_000, "exact"),
        (200_001, "ivfpq"),
        (10_000_000, "ivfpq"),
    ],
)
def test_the_rule_follows_the_count(count: int, rule: str) -> None:
    assert choose_rule(count) == rule


def test_a_rule_can_be_chosen() -> None:
    assert choose_rule(5, "hnsw") == "hnsw"
    assert choose_rule(10_000, "ivfpq") == "ivfpq"
    with pytest.raises(SnapshotError, match="at least 10,000 vectors and this catalogue has 9,999"):
        choose_rule(9_999, "ivfpq")
    with pytest.raises(SnapshotError, match="choose auto, exact, hnsw, ivfpq"):
        choose_rule(5, "annoy")
