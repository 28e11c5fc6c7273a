from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.catalogue import read_catalogue
from model.errors import CatalogueError
from model.evaluate import (
    EncodedCatalogue,
    Match,
    directions,
    evaluate,
    first_images,
    groups_of,
)
from model.product import Catalogue
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
    assert (figures["matching"]["accuracy"], figures["matching"]["auc"]) == (100, 100)


def test_an_anti_oracle_is_always_wrong(catalogue: EncodedCatalogue) -> None:
    table = np.where(right_pairs(catalogue), -1.0, 1.0)
    figures = evaluate(catalogue, scoring(table)).figures
    for direction in DIRECTIONS:
        rerank = figures[direction]["sampled"]["rerank"]
        assert (rerank["rank1"], rerank["rank10"], rerank["mean_rank"]) == (0, 0, 101)
        assert rerank["rank_last"] == 100
    assert (figures["matching"]["accuracy"], figures["matching"]["auc"]) == (0, 0)


def test_a_constant_gains_nothing(catalogue: EncodedCatalogue) -> None:
    figures = evaluate(catalogue, scoring(np.ones((240, 480)))).figures
    for direction in DIRECTIONS:
        assert figures[direction]["sampled"]["rerank"]["mean_rank"] == 101
    assert (figures["matching"]["accuracy"], figures["matching"]["auc"]) == (50, 50)


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


def asked(count: int, products: list[int]) -> np.ndarray:
    mask = np.zeros(count, dtype=np.bool_)
    mask[products] = True
    return mask


def test_a_product_counts_by_its_best_view() -> None:
    catalogue = encoded([2, 1, 3, 1])
    table = np.array([[1, 7, 6, 2, 3, 9, 5]] * 4)
    text_to_image, _ = directions(catalogue, scoring(table))
    logits = text_to_image.logits(1, asked(4, [0, 2, 3]))
    assert text_to_image.best(logits).tolist() == [7, -np.inf, 9, 5]
    # For the other direction the first view asks.
    _, image_to_text = directions(catalogue, scoring(np.arange(28).reshape(4, 7)))
    logits = image_to_text.logits(2, asked(4, [0, 3]))
    assert logits.tolist() == image_to_text.best(logits).tolist() == [3, -np.inf, -np.inf, 21 + 3]
    assert (text_to_image.logits(0, asked(4, [])) == -np.inf).all()


def test_recall_is_by_the_best_view_too(catalogue: EncodedCatalogue) -> None:
    text_to_image, image_to_text = directions(catalogue, scoring(np.zeros((240, 480))))
    for text, product in ((0, 0), (5, 2), (100, 239)):
        views = slice(catalogue.first_image[product], catalogue.first_image[product + 1])
        similarities = catalogue.image_embeddings[views] @ catalogue.text_embeddings[text]
        scores = text_to_image.best(text_to_image.similarities(text))
        assert scores.shape == (240,)
        assert scores[product] == pytest.approx(float(similarities.max()), abs=1e-6)
        scores = image_to_text.best(image_to_text.similarities(product))
        assert scores[text] == pytest.approx(float(similarities[0]), abs=1e-6)


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
    catalogue = encoded([1] * 130)
    # Logits so alike that float32 would round them together once they are lifted.
    rng = np.random.default_rng(8)
    table = np.float32(1000) * (1 + rng.integers(0, 400, (130, 130)) * np.float32(2.0**-23))
    table[0, 0] = -1e6
    figures = evaluate(catalogue, scoring(table), candidates=130).figures
    for direction in DIRECTIONS:
        sampled = figures[direction]["sampled"]
        two_stage = sampled["two_stage"]
        over = two_stage.pop("over_recall")
        assert two_stage.pop("over_rerank") == {"rank1": 0, "low": 0, "high": 0}
        assert two_stage == sampled["rerank"] != sampled["recall"]
        gain = two_stage["rank1"] - sampled["recall"]["rank1"]
        assert over["rank1"] == pytest.approx(gain, abs=0.02)
    ranks = (table >= table.diagonal()[:, None]).sum(axis=1)
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
        assert ours["sampled"]["two_stage"].pop("over_rerank")
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
    recall = catalogue.text_embeddings @ catalogue.image_embeddings.T
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


def unlucky(catalogue: EncodedCatalogue) -> EncodedCatalogue:
    """Every recall similarity is the same."""
    return replace(catalogue, text_embeddings=np.zeros_like(catalogue.text_embeddings))


def test_ties_in_the_recall_go_against_the_right_one() -> None:
    twins = [0, 0, *range(1, 19)]  # the first two products have the same text
    catalogue = unlucky(encoded([1] * 20, texts=twins))
    oracle = scoring(np.where(right_pairs(catalogue), 1.0, -1.0))
    for candidates, found in ((18, 0), (19, 18), (20, 20)):
        figures = evaluate(catalogue, oracle, candidates=candidates).figures
        for direction in DIRECTIONS:
            stage = figures[direction]["full"]["two_stage"]
            # Of the twins' queries, 18 others come first, and of the rest 19.
            expected = {18: 0.0, 19: 10.0, 20: 100.0}[candidates]
            assert stage["rank1"] == expected, found


def test_pictures_that_recall_puts_behind_the_last_candidate_do_not_count() -> None:
    """As the service: it reranks pictures, and a second view may lie behind the candidates."""
    catalogue = encoded([2, 1, 1])
    # Each text recalls pictures 0 and 2 first, of products 0 and 1; 1 is product 0's other view.
    axis = np.zeros((4, 16), dtype=np.float32)
    axis[:, 0] = [0.9, 0.5, 0.8, 0.1]
    ones = np.zeros((3, 16), dtype=np.float32)
    ones[:, 0] = 1
    catalogue = replace(catalogue, text_embeddings=ones, image_embeddings=axis)
    # Product 0 is told by its other view alone.
    table = np.array([[0.0, 5.0, 2.0, 2.0], [0.0, 0.0, 9.0, 2.0], [0.0, 0.0, 2.0, 9.0]])
    for candidates, rank1 in ((1, 33.33), (2, 33.33), (3, 100)):
        result = evaluate(catalogue, scoring(table), candidates=candidates, rerank_in_full=True)
        full = result.figures["text_to_image"]["full"]
        assert (full["two_stage"]["rank1"], full["rerank"]["rank1"]) == (rank1, 100)


def test_reranking_the_whole_catalogue(catalogue: EncodedCatalogue) -> None:
    table = np.random.default_rng(4).standard_normal((240, 480))
    table[right_pairs(catalogue)] += 2
    figures = evaluate(catalogue, scoring(table), queries=60, rerank_in_full=True).figures
    without = evaluate(catalogue, scoring(table), queries=60).figures
    for direction in DIRECTIONS:
        full = figures[direction]["full"]
        assert full["two_stage"].pop("over_rerank")
        assert {key: full[key] for key in ("recall", "two_stage")} == without[direction]["full"]
        assert set(full) == {"recall", "two_stage", "rerank"}
        assert figures[direction]["sampled"] == without[direction]["sampled"]
    # By hand: the best view of each product, and any right answer.
    best = np.maximum.reduceat(table, catalogue.first_image[:-1], axis=1)
    chosen = np.sort(np.random.default_rng(0).permutation(240)[:60])
    ranks = []
    for query in chosen:
        right = catalogue.text_numbers == catalogue.text_numbers[query]
        ranks.append(1 + (best[query][~right] >= best[query][right].max()).sum())
    rerank = figures["text_to_image"]["full"]["rerank"]
    assert rerank["mean_rank"] == round(float(np.mean(ranks)), 2)
    assert rerank["candidates"] == 240


@pytest.mark.parametrize("rerank_all", [False, True])
def test_without_recall_head_there_is_only_the_rerank(
    rerank_all: bool, catalogue: EncodedCatalogue
) -> None:
    nothing = np.zeros((480, 0), dtype=np.float32)
    headless = replace(catalogue, text_embeddings=nothing[:240], image_embeddings=nothing)
    assert catalogue.has_recall
    assert not headless.has_recall
    table = np.random.default_rng(4).standard_normal((240, 480)) + right_pairs(catalogue)
    expected = evaluate(catalogue, scoring(table), queries=30, rerank_in_full=True)
    for in_full in (False, True):
        found = evaluate(
            headless, scoring(table), queries=30, rerank_all=rerank_all, rerank_in_full=in_full
        )
        for direction in DIRECTIONS:
            assert set(found.figures[direction]) == (
                {"sampled", "full"} if in_full else {"sampled"}
            )
            for protocol, stages in found.figures[direction].items():
                wanted = expected.figures[direction][protocol]["rerank"]
                assert stages == {"rerank": wanted}
        assert found.figures["matching"] == expected.figures["matching"]
        for ours, theirs in zip(found.samples, expected.samples, strict=True):
            np.testing.assert_array_equal(ours.logits, theirs.logits)
            assert ours.scored.all()
            assert not ours.has_recall


def test_what_the_rerank_gains_is_measured_query_by_query(catalogue: EncodedCatalogue) -> None:
    """An interval of the difference that is narrower than the stages' own."""
    owners = np.repeat(np.arange(240), np.diff(catalogue.first_image))
    images = catalogue.image_embeddings.copy()
    known = owners % 2 == 0  # half of the products are recalled first
    images[known] = catalogue.text_embeddings[owners[known]]
    catalogue = replace(catalogue, image_embeddings=images)
    recall = catalogue.text_embeddings @ images.T
    table = recall + 0.4 * (np.arange(240)[:, None] == owners[None, :])  # a little help
    figures = evaluate(catalogue, scoring(table), candidates=240).figures["text_to_image"]
    for protocol in ("sampled", "full"):
        recalled, staged = figures[protocol]["recall"], figures[protocol]["two_stage"]
        over = staged["over_recall"]
        assert over["rank1"] == pytest.approx(staged["rank1"] - recalled["rank1"], abs=0.02)
        assert 0 < over["low"] < over["rank1"] < over["high"]
        assert over["high"] - over["low"] < staged["high"] - staged["low"]


def test_matching_worked_by_hand() -> None:
    # Two products, so every pool is (the right one, the other one).
    table = np.array([[3.0, 1.0], [-2.0, -1.0]])  # texts by pictures
    matching = evaluate(encoded([1, 1]), scoring(table)).figures["matching"]
    # Right pairs 3 and −1, wrong ones 1 and −2, each seen from both sides.
    assert (matching["accuracy"], matching["auc"]) == (50.0, 75.0)
    assert matching["accuracy_low"] < 50 < matching["accuracy_high"]
    assert matching["auc_low"] <= 75 <= matching["auc_high"] == 100


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
