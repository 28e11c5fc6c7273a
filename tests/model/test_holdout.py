from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.catalogue import Catalogue, read_catalogue
from model.errors import TrainingError
from model.holdout import hold_out, shared_products


@pytest.fixture(scope="module")
def catalogue(demo_catalogue: Path) -> Iterator[Catalogue]:
    """96 products; every fourth has the text of the one before: at most 72 different texts."""
    with read_catalogue(demo_catalogue / "train.csv") as feed:
        products = list(feed.products)
        for row in range(3, len(products), 4):
            products[row] = dataclasses.replace(products[row], text=products[row - 1].text)
        yield dataclasses.replace(feed, products=products)


def ids(catalogue: Catalogue) -> list[str]:
    return [product.id for product in catalogue.products]


def texts(catalogue: Catalogue) -> set[str]:
    return {product.text for product in catalogue.products}


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.9])
def test_every_product_is_on_one_side_and_so_is_every_text(
    share: float, catalogue: Catalogue
) -> None:
    learn, choose = hold_out(catalogue, share)
    assert not texts(learn) & texts(choose)
    assert len(texts(choose)) == round(share * len(texts(catalogue)))
    assert sorted(ids(learn) + ids(choose)) == sorted(ids(catalogue))
    for part in (learn, choose):
        assert ids(part) == [id for id in ids(catalogue) if id in set(ids(part))], "feed order"
        assert part.pictures is catalogue.pictures


def test_the_draw_can_be_had_again_and_follows_the_seed(catalogue: Catalogue) -> None:
    learn, choose = hold_out(catalogue, 0.25, seed=3)
    again = hold_out(catalogue, 0.25, seed=3)
    assert (ids(again[0]), ids(again[1])) == (ids(learn), ids(choose))
    assert (again[0].fingerprint, again[1].fingerprint) == (learn.fingerprint, choose.fingerprint)
    other = hold_out(catalogue, 0.25, seed=4)
    assert ids(other[1]) != ids(choose)


def test_different_parts_have_different_fingerprints(catalogue: Catalogue) -> None:
    fingerprints = [catalogue.fingerprint]
    for share, seed in ((0.25, 0), (0.25, 1), (0.5, 0)):
        fingerprints += [part.fingerprint for part in hold_out(catalogue, share, seed)]
    another = dataclasses.replace(catalogue, fingerprint="0" * 64)
    fingerprints += [part.fingerprint for part in hold_out(another, 0.25)]
    assert len(set(fingerprints)) == len(fingerprints)


def test_the_catalogue_itself_is_left_alone(catalogue: Catalogue) -> None:
    before = ids(catalogue), catalogue.fingerprint
    hold_out(catalogue, 0.5)
    assert (ids(catalogue), catalogue.fingerprint) == before


def test_capitals_make_no_other_text(catalogue: Catalogue) -> None:
    """An uncased model would be asked for what it was shown."""
    products = [
        dataclasses.replace(product, text=f" {product.text.upper()}\n" if row % 2 else product.text)
        for row, product in enumerate(catalogue.products)
    ]
    parts = hold_out(dataclasses.replace(catalogue, products=products), 0.25)
    plain = [{text.strip().lower() for text in texts(part)} for part in parts]
    assert not plain[0] & plain[1]
    assert shared_products(*parts) == (0, 0)
    # Another draw is another feed, also of the same catalogue by the same seed.
    assert {part.fingerprint for part in parts}.isdisjoint(
        part.fingerprint for part in hold_out(catalogue, 0.5)
    )


def test_products_on_both_sides_are_counted(catalogue: Catalogue) -> None:
    first, second, third, *rest = catalogue.products
    train = dataclasses.replace(catalogue, products=[first, second])
    valid = [
        first,
        dataclasses.replace(second, text="another"),
        dataclasses.replace(third, text=first.text.upper()),
        dataclasses.replace(rest[0], text="a third"),
    ]
    assert shared_products(train, dataclasses.replace(catalogue, products=valid)) == (2, 2)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.999, 1.0, 1.5, -0.5, math.nan, math.inf])
def test_a_share_that_leaves_a_side_without_is_refused(share: float, catalogue: Catalogue) -> None:
    with pytest.raises(TrainingError, match="--valid, or another share with --hold-out"):
        hold_out(catalogue, share)


def test_two_texts_must_be_held_out_and_one_learnt(catalogue: Catalogue) -> None:
    one_each = list({product.text: product for product in catalogue.products}.values())
    three = dataclasses.replace(catalogue, products=one_each[:3])
    learn, choose = hold_out(three, 0.6)
    assert (len(learn), len(choose)) == (1, 2)
    with pytest.raises(TrainingError, match="of 3 different texts cannot be held out"):
        hold_out(three, 0.3)  # one text: there is nothing to rank it against
    for few in (0, 1):
        with pytest.raises(TrainingError):
            hold_out(dataclasses.replace(catalogue, products=one_each[:few]), 0.5)
