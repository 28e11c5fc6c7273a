from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.ranking import (
    area_under_curve,
    number_by_value,
    pair_figures,
    rank1_difference,
    rank_figures,
    ranks_among,
    ranks_in_full,
    recall_places,
    sampled_candidates,
    sound_pools,
    stage_figures,
    two_stage_scores,
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
    assert figures.low <= figures.rank5_low <= figures.rank5 <= figures.rank5_high
    assert figures.rank5_high <= figures.rank10_high <= 100
    assert figures.rank5_low <= figures.rank10_low <= figures.rank10 <= figures.rank10_high
    assert rank_figures(np.array(ranks), 20, seed) == figures


def test_the_interval_is_as_wide_as_the_binomials() -> None:
    ranks = np.where(np.arange(400) < 100, 1, 2)
    figures = rank_figures(ranks, 101)
    half = 100 * 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert figures.low == pytest.approx(25 - half, abs=0.8)
    assert figures.high == pytest.approx(25 + half, abs=0.8)
    for k, name in ((5, "rank5"), (10, "rank10")):
        shifted = rank_figures(np.where(ranks == 1, k, k + 1), 101).as_dict()
        assert shifted[name] == 25
        assert shifted[f"{name}_low"] == pytest.approx(25 - half, abs=0.8)
        assert shifted[f"{name}_high"] == pytest.approx(25 + half, abs=0.8)
    narrower = rank_figures(np.tile(ranks, 4), 101)
    assert narrower.high - narrower.low < 0.6 * (figures.high - figures.low)


def test_a_difference_is_paired() -> None:
    # 400 queries: 40 won, 10 lost, 150 first in both, 200 in neither.
    ranks = np.repeat([1, 2, 1, 7], [40, 10, 150, 200])
    others = np.repeat([5, 1, 1, 7], [40, 10, 150, 200])
    found = rank1_difference(ranks, others)
    assert found["rank1"] == 7.5
    half = 100 * 1.96 * np.sqrt((50 / 400 - 0.075**2) / 400)
    assert found["low"] == pytest.approx(7.5 - half, abs=0.5)
    assert found["high"] == pytest.approx(7.5 + half, abs=0.5)
    back = rank1_difference(others, ranks)
    assert back["rank1"] == -7.5
    assert back["low"] < -7.5 < back["high"] < 0
    assert rank1_difference(ranks, ranks) == {"rank1": 0, "low": 0, "high": 0}
    assert rank1_difference(ranks, others) == found, "the bootstrap can be had again"
    # Drawing both apart would be far wider.
    one, other = rank_figures(ranks, 101), rank_figures(others, 101)
    assert found["high"] - found["low"] < 0.6 * (one.high - other.low - (one.low - other.high))


def test_stages_of_the_same_queries() -> None:
    recall, staged = np.array([2, 1, 3, 1]), np.array([1, 1, 2, 1])
    assert set(stage_figures({"rerank": recall}, 5)["rerank"]) == set(
        rank_figures(recall, 5).as_dict()
    )
    assert "over_rerank" not in stage_figures({"recall": recall, "two_stage": staged}, 5)
    stages = stage_figures({"recall": recall, "two_stage": staged, "rerank": staged}, 5)
    assert stages["two_stage"]["over_recall"] == rank1_difference(staged, recall)
    assert stages["two_stage"]["over_rerank"]["rank1"] == 0
    assert stages["two_stage"]["rank1"] == 75


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


@pytest.mark.parametrize("groups", [np.zeros(300, dtype=np.int64), np.arange(300)])
def test_candidates_are_drawn_at_random(groups: Any) -> None:
    """From a query's own group, and where that has none from the others."""
    texts = queries = np.arange(300)
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


@settings(deadline=None)
@given(arrays(np.float32, (3, 6), elements=st.integers(0, 2)))
def test_ties_in_the_recall_go_against_the_right_one(scores: Any) -> None:
    places = recall_places(scores)
    for row, ranked in zip(scores, places, strict=True):
        assert sorted(ranked) == list(range(6))
        assert ranked[0] == (row[1:] >= row[0]).sum()
        assert (np.diff(row[np.argsort(ranked)]) <= 0).all()


def test_the_reranked_come_first_each_part_in_its_own_order() -> None:
    recall = np.array([0.9, 0.5, 0.7, 0.1, -0.2], dtype=np.float32)
    logits = np.array([-8.0, -np.inf, 3.0, np.inf, -7.5], dtype=np.float32)
    reranked = np.array([True, False, True, False, True])
    scores = two_stage_scores(recall, logits, reranked)
    assert np.argsort(-scores).tolist() == [2, 4, 0, 1, 3]
    assert np.isfinite(scores).all()
    nothing = np.zeros(5, dtype=np.bool_)
    np.testing.assert_array_equal(two_stage_scores(recall, logits, nothing), recall)


@settings(deadline=None)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    st.lists(st.integers(-3, 3), min_size=1, max_size=12),
)
def test_the_area_is_the_share_of_pairs_in_order(
    positives: list[int], negatives: list[int]
) -> None:
    area = area_under_curve(np.float32(positives), np.float32(negatives))
    won = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    assert area == pytest.approx(won / len(positives) / len(negatives))


@pytest.mark.parametrize("worst", [np.nan, np.inf, -np.inf])
def test_one_broken_logit_breaks_one_query(worst: float) -> None:
    recall = np.tile(np.float32([0.9, 0.5, 0.4]), (4, 1))
    logits = np.tile(np.float32([5, 1, 2]), (4, 1))
    reranked = np.tile([True, True, False], (4, 1))
    logits[2, 1] = worst
    ranks = ranks_among(two_stage_scores(recall, logits, reranked))
    assert ranks.tolist() == [1, 1, 1 if worst == -np.inf else 2, 1]


def test_what_is_no_number_wins_nothing() -> None:
    assert area_under_curve(np.float32([np.nan]), np.float32([0])) == 0
    assert area_under_curve(np.float32([0]), np.float32([np.nan])) == 0
    assert area_under_curve(np.float32([1, np.nan]), np.float32([0])) == 0.5


def test_matching_has_intervals() -> None:
    rng = np.random.default_rng(5)
    positives = rng.normal(1, 1, 500).astype(np.float32)
    negatives = rng.normal(-1, 1, 500).astype(np.float32)
    found = pair_figures(positives[:, None], negatives[:, None])
    right = np.concatenate([positives > 0, negatives <= 0])
    assert found["accuracy"] == round(100 * right.mean(), 2)
    half = 100 * 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 1000)
    assert found["accuracy_high"] - found["accuracy_low"] == pytest.approx(2 * half, rel=0.2)
    assert found["auc"] == round(100 * area_under_curve(positives, negatives), 2)
    assert found["auc"] - 3 < found["auc_low"] < found["auc"] < found["auc_high"] < found["auc"] + 3
    assert pair_figures(positives[:, None], negatives[:, None]) == found


def test_a_pair_that_is_seen_twice_is_no_second_one() -> None:
    """As the true pair of a product is: text → image and image → text."""
    rng = np.random.default_rng(5)
    positives, negatives = rng.normal((1, -1), 1, (500, 2)).astype(np.float32).T[..., None]
    once = pair_figures(positives, negatives)
    assert pair_figures(positives.repeat(2, axis=1), negatives.repeat(2, axis=1)) == once


def test_the_mean_rank_has_an_interval() -> None:
    ranks = np.random.default_rng(3).integers(1, 102, 400)
    figures = rank_figures(ranks, 101)
    half = 1.96 * ranks.std() / np.sqrt(400)
    assert figures.mean_rank_low == pytest.approx(figures.mean_rank - half, abs=0.5)
    assert figures.mean_rank_high == pytest.approx(figures.mean_rank + half, abs=0.5)
    always = rank_figures(np.full(50, 7), 101)
    assert (always.mean_rank_low, always.mean_rank, always.mean_rank_high) == (7, 7, 7)


def test_pools_are_sound_or_said_not_to_be() -> None:
    texts = np.array([0, 1, 0, 2, 3, 4])
    queries = np.array([0, 1, 3, 5])
    good = np.array([[0, 1, 3], [1, 0, 2], [3, 4, 5], [5, 0, 1]])
    assert sound_pools(good, queries, texts) == 100
    for row, bad in (
        (0, [0, 1, 2]),  # product 2 has product 0's text
        (0, [2, 1, 3]),  # not the query's own, though as right
        (1, [0, 1, 2]),  # not where its rank is read
        (2, [3, 3, 5]),  # twice
        (3, [0, 1, 4]),  # not there
        (1, [1, 4, 4]),  # a negative twice
    ):
        pools = good.copy()
        pools[row] = bad
        assert sound_pools(pools, queries, texts) == 75
    numbers = np.random.default_rng(0).integers(0, 150, 200)
    everyone = np.arange(200)
    drawn = sampled_candidates(numbers, numbers % 5, everyone)
    assert sound_pools(drawn, everyone, numbers) == 100
