from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.ranking import (
    number_by_value,
    rank_figures,
    ranks_among,
    ranks_in_full,
    sampled_candidates,
)


def test_figures_worked_by_hand() -> None:
    figures = rank_figures(np.array([1, 1, 2, 5, 6, 10, 11, 101]), 101)
    assert (figures.queries, figures.candidates) == (8, 101)
    assert (figures.rank1, figures.rank5, figures.rank10) == (25.0, 50.0, 75.0)
    assert figures.mean_rank == 17.12
    assert figures.rank_last == 100.0
    assert figures.as_dict()["rank5"] == 50.0


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(0, 3))
def test_the_interval_holds_the_estimate_and_can_be_had_again(ranks: list[int], seed: int) -> None:
    figures = rank_figures(np.array(ranks), 20, seed)
    assert 0 <= figures.low <= figures.rank1 <= figures.high <= 100
    assert figures.rank1 <= figures.rank5 <= figures.rank10 <= figures.rank_last == 100
    assert rank_figures(np.array(ranks), 20, seed) == figures


def test_the_interval_is_as_wide_as_the_binomials() -> None:
    ranks = np.where(np.arange(400) < 100, 1, 2)
    figures = rank_figures(ranks, 101)
    half = 100 * 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert figures.low == pytest.approx(25 - half, abs=0.8)
    assert figures.high == pytest.approx(25 + half, abs=0.8)
    narrower = rank_figures(np.tile(ranks, 4), 101)
    assert narrower.high - narrower.low < 0.6 * (figures.high - figures.low)


def test_equal_values_get_equal_numbers() -> None:
    assert number_by_value(["b", "a", "b", None, "a", ""]).tolist() == [0, 1, 0, 2, 1, 3]
    assert number_by_value([]).shape == (0,)


@pytest.mark.parametrize(
    ("scores", "rank"),
    [
        ([3, 2, 1], 1),
        ([2, 3, 1], 2),
        ([1, 3, 2], 3),
        ([2, 2, 1], 2),  # a tie goes to the others
        ([1, 1, 1], 3),
        ([5], 1),
        ([np.nan, 1, 2], 3),
        ([1, np.nan, 0], 2),
        ([-np.inf, -np.inf, 0], 3),
    ],
)
def test_ranks_worked_by_hand(scores: list[float], rank: int) -> None:
    both = np.array([scores, scores], dtype=np.float32)
    assert ranks_among(both).tolist() == [rank, rank]
    own, everyone = np.array([0, 0]), np.arange(len(scores))
    assert ranks_in_full(both, own, everyone).tolist() == [rank, rank]


def test_products_with_the_same_text_are_equally_right() -> None:
    numbers = np.array([0, 1, 0, 2])  # products 0 and 2 have the same text
    scores = np.array([[1, 5, 9, 3], [9, 5, 1, 3], [2, 3, 1, 2], [3, 3, 3, 3]], dtype=np.float32)
    assert ranks_in_full(scores, np.array([0, 2, 0, 3]), numbers).tolist() == [1, 1, 3, 4]


@settings(deadline=None)
@given(
    arrays(np.float32, (4, 6), elements=st.integers(0, 3)),
    arrays(np.int64, 6, elements=st.integers(0, 3)),
    arrays(np.int64, 4, elements=st.integers(0, 5)),
)
def test_ranks_in_full_are_those_of_a_plain_count(scores: Any, numbers: Any, queries: Any) -> None:
    for row, (query, rank) in enumerate(
        zip(queries, ranks_in_full(scores, queries, numbers), strict=True)
    ):
        right = [scores[row, i] for i in range(6) if numbers[i] == numbers[query]]
        wrong = [scores[row, i] for i in range(6) if numbers[i] != numbers[query]]
        assert rank == 1 + sum(score >= max(right) for score in wrong)


@settings(deadline=None)
@given(
    arrays(np.int64, 60, elements=st.integers(0, 40)),
    arrays(np.int64, 60, elements=st.integers(0, 4)),
    st.integers(1, 70),
    st.integers(0, 5),
)
def test_candidates(texts: Any, groups: Any, negatives: int, seed: int) -> None:
    queries = np.array([3, 0, 59])
    pools = sampled_candidates(texts, groups, queries, negatives=negatives, seed=seed)
    others = [np.count_nonzero(texts != texts[query]) for query in queries]
    assert pools.shape == (3, 1 + min(negatives, *others))
    assert pools.dtype == np.int64
    np.testing.assert_array_equal(pools[:, 0], queries)
    for query, pool in zip(queries, pools, strict=True):
        drawn = pool[1:]
        assert len(set(drawn)) == len(drawn)
        assert (texts[drawn] != texts[query]).all()
        akin = groups[drawn] == groups[query]
        there = np.count_nonzero((groups == groups[query]) & (texts != texts[query]))
        assert akin.tolist() == [True] * min(there, len(drawn)) + [False] * (
            len(drawn) - akin.sum()
        )
    again = sampled_candidates(texts, groups, queries, negatives=negatives, seed=seed)
    np.testing.assert_array_equal(again, pools)


def test_candidates_are_drawn_at_random() -> None:
    texts, groups = np.arange(300), np.zeros(300, dtype=np.int64)
    queries = np.arange(300)
    pools = sampled_candidates(texts, groups, queries)
    assert pools.shape == (300, 101)
    assert not np.array_equal(pools, sampled_candidates(texts, groups, queries, seed=1))
    drawn = np.bincount(pools[:, 1:].ravel(), minlength=300)
    assert drawn.min() > 60, "each product is a candidate of about 100 queries"
    assert drawn.max() < 140


def test_a_catalogue_that_is_too_small_gives_what_it_has() -> None:
    same_group = np.zeros(3, dtype=np.int64)
    pools = sampled_candidates(np.arange(3), same_group, np.arange(3))
    assert [sorted(pool) for pool in pools.tolist()] == [[0, 1, 2]] * 3
    # All pools are as wide as the narrowest: product 0's text is product 1's as well.
    pools = sampled_candidates(np.array([0, 0, 1]), same_group, np.arange(3))
    assert pools.shape == (3, 2)
    assert pools[:2].tolist() == [[0, 2], [1, 2]]
