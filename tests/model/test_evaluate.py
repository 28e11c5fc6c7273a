from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.catalogue import Catalogue, read_catalogue
from model.engine import Engine
from model.errors import CatalogueError
from model.evaluate import (
    EncodedCatalogue,
    Match,
    _ranked_first,
    area_under_curve,
    encode_catalogue,
    evaluate,
    first_images,
    groups_of,
    match_image,
    match_text,
    recall_scores,
    table_rows,
)
from model.preprocess import decode_image
from model.ranking import number_by_value
from model.states import QuantisedStates

DIRECTIONS = ("text_to_image", "image_to_text")


def _named(count: int) -> QuantisedStates:
    """States that say nothing but their own row: `_rows` reads it."""
    values = np.zeros((count, 1, 2), dtype=np.int8)
    values[:, 0, 0], values[:, 0, 1] = np.divmod(np.arange(count), 100)
    return QuantisedStates(values, np.ones((count, 1), dtype=np.float32))


def _rows(states: QuantisedStates) -> np.ndarray:
    return states.values[:, 0, 0].astype(int) * 100 + states.values[:, 0, 1]


def scoring(table: np.ndarray) -> Match:
    """A match function that looks the score of (text, picture) up."""

    def match(texts: QuantisedStates, images: QuantisedStates) -> np.ndarray:
        scores: np.ndarray = table[_rows(texts), _rows(images)].astype(np.float32)
        return scores

    return match


def encoded(
    views: list[int],
    texts: list[int] | None = None,
    groups: list[int] | None = None,
    seed: int = 0,
) -> EncodedCatalogue:
    """Products with so many views each, and embeddings that know nothing."""
    rng = np.random.default_rng(seed)
    first = np.concatenate([[0], np.cumsum(views)]).astype(np.int64)

    def units(count: int) -> np.ndarray:
        vectors = rng.standard_normal((count, 16)).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    return EncodedCatalogue(
        texts=_named(len(views)),
        text_embeddings=units(len(views)),
        images=_named(int(first[-1])),
        image_embeddings=units(int(first[-1])),
        first_image=first,
        text_numbers=np.arange(len(views)) if texts is None else np.array(texts),
        groups=np.zeros(len(views), dtype=np.int64) if groups is None else np.array(groups),
    )


def right_pairs(catalogue: EncodedCatalogue) -> np.ndarray:
    """bool [N, M]: the text describes the picture's product, itself or its twin."""
    owners = np.repeat(np.arange(len(catalogue)), np.diff(catalogue.first_image))
    right: np.ndarray = catalogue.text_numbers[:, None] == catalogue.text_numbers[owners][None, :]
    return right


@pytest.fixture(scope="module")
def catalogue() -> EncodedCatalogue:
    """240 products of 4 groups, with 1 to 3 views; every tenth has the text of the one before."""
    views = [1 + row % 3 for row in range(240)]
    texts = [row - 1 if row % 10 == 9 else row for row in range(240)]
    return encoded(views, texts, [row % 4 for row in range(240)])


def test_an_oracle_is_always_right(catalogue: EncodedCatalogue) -> None:
    table = np.where(right_pairs(catalogue), 1.0, -1.0)
    figures = evaluate(catalogue, scoring(table)).figures
    assert (figures["queries"], figures["products"]) == (240, 240)
    for direction in DIRECTIONS:
        rerank = figures[direction]["sampled"]["rerank"]
        assert (rerank["rank1"], rerank["mean_rank"], rerank["candidates"]) == (100, 1, 101)
        assert (rerank["low"], rerank["high"]) == (100, 100)
    assert figures["matching"] == {"accuracy": 100, "auc": 100}


def test_an_anti_oracle_is_always_wrong(catalogue: EncodedCatalogue) -> None:
    table = np.where(right_pairs(catalogue), -1.0, 1.0)
    figures = evaluate(catalogue, scoring(table)).figures
    for direction in DIRECTIONS:
        rerank = figures[direction]["sampled"]["rerank"]
        assert (rerank["rank1"], rerank["rank10"], rerank["mean_rank"]) == (0, 0, 101)
        assert rerank["rank_last"] == 100
    assert figures["matching"] == {"accuracy": 0, "auc": 0}


def test_a_constant_gains_nothing(catalogue: EncodedCatalogue) -> None:
    figures = evaluate(catalogue, scoring(np.ones((240, 480)))).figures
    for direction in DIRECTIONS:
        assert figures[direction]["sampled"]["rerank"]["mean_rank"] == 101
    assert figures["matching"] == {"accuracy": 50, "auc": 50}


def test_chance_is_one_in_a_hundred_and_one() -> None:
    catalogue = encoded([1] * 400)
    table = np.random.default_rng(3).standard_normal((400, 400))
    figures = evaluate(catalogue, scoring(table)).figures
    for direction in DIRECTIONS:
        for stage in ("recall", "rerank", "two_stage"):
            sampled = figures[direction]["sampled"][stage]
            assert sampled["rank1"] < 3
            assert sampled["rank10"] == pytest.approx(100 * 10 / 101, abs=5)
            assert sampled["mean_rank"] == pytest.approx(51, abs=5)
            assert sampled["rank_last"] == 100
        full = figures[direction]["full"]["recall"]
        assert (full["candidates"], full["mean_rank"]) == (400, pytest.approx(200.5, abs=25))
    assert figures["matching"]["accuracy"] == pytest.approx(50, abs=5)
    assert figures["matching"]["auc"] == pytest.approx(50, abs=5)


def test_a_product_counts_by_its_best_view() -> None:
    catalogue = encoded([2, 1, 3, 1])
    table = np.array([[1, 7, 6, 2, 3, 9, 5]] * 4)
    products = np.array([2, 0, 3])
    assert match_text(catalogue, scoring(table), 1, products).tolist() == [9, 7, 5]
    assert match_text(catalogue, scoring(table), 1, np.array([1])).tolist() == [6]
    # For the other direction the first view asks.
    table = np.arange(28).reshape(4, 7)
    texts = np.array([3, 0])
    assert match_image(catalogue, scoring(table), 2, texts).tolist() == [21 + 3, 3]


def test_recall_is_by_the_best_view_too(catalogue: EncodedCatalogue) -> None:
    scores = recall_scores(catalogue)
    assert scores.shape == (240, 240)
    for text, product in ((0, 0), (5, 2), (100, 239)):
        views = slice(catalogue.first_image[product], catalogue.first_image[product + 1])
        similarities = catalogue.image_embeddings[views] @ catalogue.text_embeddings[text]
        assert scores[text, product] == pytest.approx(float(similarities.max()), abs=1e-6)


def test_sister_views_never_compete() -> None:
    """The right product's other views score above all but one wrong product's three views."""
    catalogue = encoded([3] * 12)
    owners = np.repeat(np.arange(12), 3)
    table = np.ones((12, 36))
    table[owners[None, :] == (np.arange(12)[:, None] + 1) % 12] = 9  # one wrong product, all views
    table[np.arange(12)[:, None], np.flatnonzero(owners >= 0).reshape(12, 3)] = [5, 3, 4]
    figures = evaluate(catalogue, scoring(table), candidates=12).figures["text_to_image"]
    for protocol in ("sampled", "full"):
        stage = figures[protocol]["two_stage"]
        assert (stage["rank1"], stage["rank5"], stage["mean_rank"]) == (0, 100, 2)
        assert stage["candidates"] == 12


def test_two_stages_over_everything_are_the_rerank() -> None:
    catalogue = encoded([2] * 130)
    # Logits so alike that float32 would round them together once they are lifted.
    rng = np.random.default_rng(8)
    table = np.float32(1000) * (1 + rng.integers(0, 400, (130, 260)) * np.float32(2.0**-23))
    table[0, 0] = -1e6
    figures = evaluate(catalogue, scoring(table), candidates=130).figures
    for direction in DIRECTIONS:
        sampled = figures[direction]["sampled"]
        assert sampled["two_stage"] == sampled["rerank"]
        assert sampled["two_stage"] != sampled["recall"]
    best = table.reshape(130, 130, 2).max(axis=2)
    ranks = (best >= best.diagonal()[:, None]).sum(axis=1)
    full = figures["text_to_image"]["full"]["two_stage"]
    assert full["mean_rank"] == round(float(ranks.mean()), 2)
    assert full["rank10"] == round(100 * float((ranks <= 10).mean()), 2)


@pytest.mark.parametrize("candidates", [1, 7, 40])
def test_scoring_only_the_recalled_gives_the_same_two_stages(
    candidates: int, catalogue: EncodedCatalogue
) -> None:
    table = np.random.default_rng(4).standard_normal((240, 480)) * 20
    table[right_pairs(catalogue)] += 25
    asked = []

    def counting(texts: QuantisedStates, images: QuantisedStates) -> np.ndarray:
        asked.append(max(len(texts), len(images)))
        return scoring(table)(texts, images)

    whole = evaluate(catalogue, scoring(table), candidates=candidates, queries=60)
    part = evaluate(
        catalogue, counting, candidates=candidates, queries=60, rerank_all=False, full=False
    )
    assert max(asked) <= 3 * candidates
    assert "matching" not in part.figures
    for direction in DIRECTIONS:
        ours, theirs = whole.figures[direction], part.figures[direction]
        assert set(theirs) == {"sampled"}
        assert set(theirs["sampled"]) == {"recall", "two_stage"}
        for stage in ("recall", "two_stage"):
            assert theirs["sampled"][stage] == ours["sampled"][stage]
    for ours, theirs in zip(whole.samples, part.samples, strict=True):
        assert ours.scored.all()
        assert (theirs.scored.sum(axis=1) == candidates).all()
        np.testing.assert_array_equal(theirs.logits[theirs.scored], ours.logits[theirs.scored])
        assert not theirs.logits[~theirs.scored].any()


def test_a_product_that_recall_misses_cannot_be_reranked() -> None:
    catalogue = encoded([1] * 30)
    oracle = scoring(np.where(right_pairs(catalogue), 1.0, -1.0))
    figures = evaluate(catalogue, oracle, candidates=5).figures
    recall = recall_scores(catalogue)
    found = np.array([(row >= row[i]).sum() <= 5 for i, row in enumerate(recall)])
    for protocol in ("sampled", "full"):
        stage = figures["text_to_image"][protocol]["two_stage"]
        assert stage["rank1"] == round(100 * float(found.mean()), 2)


def test_queries_are_drawn_again_the_same(catalogue: EncodedCatalogue) -> None:
    table = np.random.default_rng(4).standard_normal((240, 480))
    one = evaluate(catalogue, scoring(table), queries=20, full=False)
    assert one.figures["queries"] == 20
    assert len(one.samples[0].logits) == 20
    assert evaluate(catalogue, scoring(table), queries=20, full=False).figures == one.figures
    other = evaluate(catalogue, scoring(table), queries=20, full=False, seed=1)
    assert other.figures != one.figures


def test_a_feed_of_one_text_cannot_be_ranked() -> None:
    for catalogue in (encoded([1]), encoded([1, 2, 1], texts=[0, 0, 0])):
        with pytest.raises(CatalogueError, match="at least two different texts"):
            evaluate(catalogue, scoring(np.ones((3, 4))))
    two = evaluate(encoded([1, 1]), scoring(np.eye(2))).figures
    assert two["text_to_image"]["sampled"]["rerank"]["rank1"] == 100


@settings(deadline=None)
@given(arrays(np.float32, (3, 6), elements=st.integers(0, 2)))
def test_ties_in_the_recall_go_against_the_right_one(scores: Any) -> None:
    places = _ranked_first(scores)
    for row, ranked in zip(scores, places, strict=True):
        assert sorted(ranked) == list(range(6))
        assert ranked[0] == (row[1:] >= row[0]).sum()
        assert (np.diff(row[np.argsort(ranked)]) <= 0).all()


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


def test_matching_worked_by_hand() -> None:
    # Two products, so every pool is (the right one, the other one).
    table = np.array([[3.0, 1.0], [-2.0, -1.0]])  # texts by pictures
    matching = evaluate(encoded([1, 1]), scoring(table)).figures["matching"]
    # Right pairs 3 and −1, wrong ones 1 and −2, each seen from both sides.
    assert matching == {"accuracy": 50.0, "auc": 75.0}


@pytest.fixture(scope="module")
def feed(demo_catalogue: Path) -> Catalogue:
    with read_catalogue(demo_catalogue / "val.csv") as feed:
        assert len(first_images(feed)) == len(feed) + 1
    return feed


def test_groups_and_first_images(feed: Catalogue) -> None:
    first = first_images(feed)
    assert np.diff(first).tolist() == [len(product.images) for product in feed.products]
    name = next(iter(feed.products[0].attributes))
    values = [product.attributes.get(name) for product in feed.products]
    assert groups_of(feed, name).tolist() == number_by_value(values).tolist()
    assert not groups_of(feed, None).any()
    assert not groups_of(feed, "no such attribute").any()


def test_a_real_model_on_a_real_feed(demo_catalogue: Path, engine: Engine) -> None:
    with read_catalogue(demo_catalogue / "val.csv") as feed:
        encoded = encode_catalogue(engine, feed)
        name = feed.products[3].images[-1]
        pixels = decode_image(feed.pictures.read(name), engine.image_size)
    assert len(encoded) == len(feed)
    assert len(encoded.images) == len(encoded.image_embeddings) == encoded.first_image[-1]
    assert len(encoded.images) > len(feed), "some product has two views"
    row = int(encoded.first_image[4]) - 1
    np.testing.assert_allclose(
        encoded.image_embeddings[row], engine.encode_images(pixels[None]).embeddings[0], atol=1e-5
    )
    texts = engine.encode_texts([product.text for product in feed.products])
    np.testing.assert_array_equal(encoded.texts.values, texts.states.values)

    result = evaluate(encoded, engine.match, queries=8, candidates=10)
    pool = min(101, len(feed))
    for direction in ("text_to_image", "image_to_text"):
        rows = table_rows(result.figures[direction])
        assert [row[:2] for row in rows] == [
            (f"{protocol} {count}", stage)
            for protocol, count, stages in (
                ("sampled", pool, ("recall", "two stage", "rerank")),
                ("full", len(feed), ("recall", "two stage")),
            )
            for stage in stages
        ]
    rows = table_rows(result.figures["text_to_image"])
    first = result.figures["text_to_image"]["sampled"]["recall"]
    assert rows[0][2:] == (
        f"{first['rank1']:.1f}",
        f"{first['low']:.1f}–{first['high']:.1f}",
        f"{first['rank5']:.1f}",
        f"{first['rank10']:.1f}",
        f"{first['mean_rank']:.1f}",
        "100",
    )
