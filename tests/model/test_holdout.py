from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model.catalogue import read_catalogue
from model.errors import CatalogueError, TrainingError
from model.holdout import hold_out, only, read_ids, shared_products, write_ids
from model.product import Catalogue


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
    wanted = share * len(texts(catalogue))
    deviation = math.sqrt(wanted * (1 - share))
    assert len(texts(choose)) == pytest.approx(wanted, abs=3.5 * deviation)
    assert sorted(ids(learn) + ids(choose)) == sorted(ids(catalogue))
    for part in (learn, choose):
        assert ids(part) == [id for id in ids(catalogue) if id in set(ids(part))], "feed order"
        assert part.pictures is catalogue.pictures


def test_the_same_catalogue_is_split_the_same_way(catalogue: Catalogue) -> None:
    learn, choose = hold_out(catalogue, 0.25)
    again = hold_out(catalogue, 0.25)
    assert (ids(again[0]), ids(again[1])) == (ids(learn), ids(choose))
    for one, same in zip((learn, choose), again, strict=True):
        assert same.fingerprint == one.fingerprint
        assert same.pictures_fingerprint == one.pictures_fingerprint


def test_a_feed_that_changed_keeps_each_text_on_its_side(catalogue: Catalogue) -> None:
    """What one run was judged by, the next one on more data must not learn."""
    _, choose = hold_out(catalogue, 0.25)
    products = list(catalogue.products)
    rows = np.random.default_rng(0).permutation(len(products))
    added = [
        dataclasses.replace(products[row], id=f"new {row}", text=f"{products[row].text} new {row}")
        for row in rows
    ]
    fewer = [products[row] for row in rows[: len(rows) // 2]]
    for feed in ([products[row] for row in rows], [*added, *products], fewer):
        learn, other = hold_out(dataclasses.replace(catalogue, products=feed), 0.25)
        assert not texts(learn) & texts(choose)
        assert texts(other) & texts(catalogue) <= texts(choose)
    # A larger share holds out more, and what the smaller one did.
    assert texts(choose) < texts(hold_out(catalogue, 0.5)[1])


def test_small_catalogues_hold_out_two_and_leave_two(catalogue: Catalogue) -> None:
    """However the hashes fall: 4 of 4 texts, or none of them, may be below the share."""
    one_each = list({product.text: product for product in catalogue.products}.values())
    for start in range(0, len(one_each) - 4, 4):
        four = dataclasses.replace(catalogue, products=one_each[start : start + 4])
        learn, choose = hold_out(four, 0.5)
        assert (len(learn), len(choose)) == (2, 2)


def test_held_out_products_are_found_again(catalogue: Catalogue, tmp_path: Path) -> None:
    _, choose = hold_out(catalogue, 0.25)
    write_ids(tmp_path / "held_out.txt", choose)
    again = only(catalogue, read_ids(tmp_path / "held_out.txt"))
    assert again.products == choose.products
    assert again.fingerprint == choose.fingerprint
    assert again.pictures_fingerprint == choose.pictures_fingerprint  # so that they are found again
    (tmp_path / "mine.txt").write_text(f"\ufeff\r\n {choose.products[0].id} \r\n\nno such\n")
    assert ids(only(catalogue, read_ids(tmp_path / "mine.txt"))) == [choose.products[0].id]
    with pytest.raises(CatalogueError, match="none of the 1 ids is a product's of this feed"):
        only(catalogue, {"no such"})
    for content, told in ((b" \n", "is empty"), (b"\xff\xfe\xfa", "cannot be read")):
        (tmp_path / "bad.txt").write_bytes(content)
        with pytest.raises(CatalogueError, match=told):
            read_ids(tmp_path / "bad.txt")
    with pytest.raises(CatalogueError, match="cannot be read"):
        read_ids(tmp_path / "none.txt")


def test_different_parts_have_different_fingerprints(catalogue: Catalogue) -> None:
    another = dataclasses.replace(catalogue, fingerprint="0" * 64, pictures_fingerprint="1" * 64)
    parts = [catalogue, *hold_out(catalogue, 0.25), *hold_out(catalogue, 0.5)]
    parts += hold_out(another, 0.25)
    assert len({part.fingerprint for part in parts}) == len(parts)
    assert len({part.pictures_fingerprint for part in parts}) == len(parts)


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
    # Another split is another feed, also of the same catalogue.
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


def test_two_texts_must_be_held_out_and_two_learnt(catalogue: Catalogue) -> None:
    one_each = list({product.text: product for product in catalogue.products}.values())
    six = dataclasses.replace(catalogue, products=one_each[:6])
    for share in (0.2, 0.8):  # one text: there is nothing to tell it from
        with pytest.raises(TrainingError, match="of 6 different texts cannot be held out"):
            hold_out(six, share)
    for few in range(4):  # no share helps
        told = rf"^{few} products with {few} different texts are too few to hold some out"
        with pytest.raises(TrainingError, match=told):
            hold_out(dataclasses.replace(catalogue, products=one_each[:few]), 0.5)
