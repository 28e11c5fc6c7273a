"""Feeds of each format, with pictures in each place, read into products."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.catalogue import read_catalogue
from model.errors import CatalogueError
from model.product import ColumnMapping, Product

WriteFeed = Callable[..., Path]

GOOD: list[dict[str, Any]] = [
    {
        "id": "0146706004",
        "image": ["images/0.jpg", "images/1.jpg"],
        "title": "Kleid",
        "description": "Ein Kleid für den Sommer.",
        "colour": "grün",
        "year": 2011,
        "price": 19.9,
        "article": "007",
    },
    {
        "id": "b/2",
        "image": ["images/p.png"],
        "title": "Hose",
        "description": None,
        "colour": None,
        "year": None,
        "price": 5.25,
        "article": "12",
    },
    {
        "id": "3",
        "image": ["images/w.webp"],
        "title": None,
        "description": "Nur ein Text",
        "colour": "rot, blau",
        "year": 2015,
        "price": None,
        "article": "13",
    },
]

GOOD_PRODUCTS = [
    Product(
        "0146706004",
        "Kleid. Ein Kleid für den Sommer.",
        "Kleid",
        ("0.jpg", "1.jpg"),
        {"colour": "grün", "year": 2011, "price": 19.9, "article": "007"},
    ),
    Product("b/2", "Hose", "Hose", ("p.png",), {"price": 5.25, "article": "12"}),
    Product(
        "3",
        "Nur ein Text",
        "Nur ein Text",
        ("w.webp",),
        {"colour": "rot, blau", "year": 2015, "article": "13"},
    ),
]


@pytest.mark.parametrize("name", ["feed.csv", "feed.jsonl", "feed.parquet"])
def test_the_three_formats_give_the_same_products(write_feed: WriteFeed, name: str) -> None:
    with read_catalogue(write_feed(GOOD, name)) as catalogue:
        assert list(catalogue.products) == GOOD_PRODUCTS
        for product, expected in zip(catalogue.products, GOOD_PRODUCTS, strict=True):
            assert {k: type(v) for k, v in product.attributes.items()} == {
                k: type(v) for k, v in expected.attributes.items()
            }
        report = catalogue.report
        assert (report.rows, report.products, report.pictures) == (3, 3, 4)
        assert not len(report.bad)
        reference = read_catalogue(write_feed(GOOD, "reference.csv"))
        assert catalogue.fingerprint == reference.fingerprint


def test_a_tar_gives_what_the_directory_gives(feed_folder: Path, write_feed: WriteFeed) -> None:
    feed = write_feed(GOOD)
    with read_catalogue(feed) as from_directory:
        products, fingerprint = from_directory.products, from_directory.fingerprint
        data = [from_directory.pictures.read(name) for p in products for name in p.images]
    with tarfile.open(feed_folder / "images.tar", "w") as tar:
        for path in sorted((feed_folder / "images").iterdir()):
            tar.add(path, path.name)
    shutil.rmtree(feed_folder / "images")
    with read_catalogue(feed) as from_tar:
        assert list(from_tar.products) == list(products)
        assert from_tar.fingerprint == fingerprint
        assert [from_tar.pictures.read(name) for p in products for name in p.images] == data


@pytest.mark.parametrize("where", ["images.tar", "images", "feed's folder", "given"])
def test_where_pictures_are_looked_for(
    feed_folder: Path, write_feed: WriteFeed, where: str
) -> None:
    feed = write_feed([{"id": "a", "image": "0.jpg", "title": "Top"}])
    given = None
    match where:
        case "images.tar":
            with tarfile.open(feed_folder / "images.tar", "w") as tar:
                tar.add(feed_folder / "images" / "0.jpg", "images/0.jpg")
            shutil.rmtree(feed_folder / "images")
        case "feed's folder":
            shutil.move(feed_folder / "images" / "0.jpg", feed_folder)
            shutil.rmtree(feed_folder / "images")
        case "given":
            given = feed_folder / "elsewhere"
            shutil.move(feed_folder / "images", given)
    with read_catalogue(feed, images=given) as catalogue:
        assert [product.id for product in catalogue.products] == ["a"]


@pytest.mark.parametrize("images", ["none", "images/text.jpg"])
def test_pictures_that_are_neither_a_directory_nor_a_tar(
    feed_folder: Path, write_feed: WriteFeed, images: str
) -> None:
    feed = write_feed([{"id": "1", "image": "0.jpg", "title": "Top"}])
    with pytest.raises(CatalogueError, match=r"directory or an? .*\.tar"):
        read_catalogue(feed, images=feed_folder / images)


# Views


def test_views_by_rows_are_views_by_list(write_feed: WriteFeed) -> None:
    by_list = [
        {"id": "a", "image": "2.jpg|0.jpg", "title": "Top", "n": "1"},
        {"id": "b", "image": "1.jpg", "title": "Hat", "n": "2"},
    ]
    by_rows = [
        {"id": "a", "image": "2.jpg", "title": "Top", "n": "1"},
        {"id": "b", "image": "1.jpg", "title": "Hat", "n": "2"},
        {"id": "a", "image": "0.jpg", "title": " Top", "n": "3"},
    ]
    first = read_catalogue(write_feed(by_list))
    second = read_catalogue(write_feed(by_rows))
    assert list(first.products) == list(second.products)
    assert first.products[0].images == ("2.jpg", "0.jpg")
    assert first.products[0].attributes == {"n": 1}
    assert first.fingerprint == second.fingerprint
    assert not len(second.report.bad)


def test_a_picture_stands_once_in_a_product_and_may_be_in_several(write_feed: WriteFeed) -> None:
    rows = [
        {"id": "a", "image": "0.jpg|images/0.jpg| ./0.jpg ||1.jpg", "title": "Top"},
        {"id": "a", "image": "1.jpg", "title": "Top"},
        {"id": "b", "image": "0.jpg", "title": "Hat"},
    ]
    catalogue = read_catalogue(write_feed(rows))
    assert [product.images for product in catalogue.products] == [("0.jpg", "1.jpg"), ("0.jpg",)]
    assert catalogue.report.pictures == 3


def test_another_separator_or_none(feed_folder: Path, write_feed: WriteFeed) -> None:
    shutil.copy(feed_folder / "images" / "0.jpg", feed_folder / "images" / "a|b.jpg")
    rows = [{"id": "a", "image": "0.jpg;1.jpg", "title": "Top"}]
    columns = ColumnMapping(separator=";")
    catalogue = read_catalogue(write_feed(rows), columns=columns)
    assert catalogue.products[0].images == ("0.jpg", "1.jpg")
    rows = [{"id": "a", "image": "a|b.jpg", "title": "Top"}]
    catalogue = read_catalogue(write_feed(rows), columns=ColumnMapping(separator=""))
    assert catalogue.products[0].images == ("a|b.jpg",)


# What stays the same, and what does not


def test_order_and_fingerprint_do_not_depend_on_threads(
    feed_folder: Path, write_feed: WriteFeed
) -> None:
    names = [*(f"{n}.jpg" for n in range(10)), "p.png", "cut.jpg", "text.jpg"]
    for n in range(300):
        shutil.copy(
            feed_folder / "images" / names[n % len(names)], feed_folder / "images" / f"x{n}.jpg"
        )
    rows = [{"id": f"p{n}", "image": f"x{n}.jpg", "title": f"Top {n}"} for n in range(300)]
    feed = write_feed(rows)
    runs = [read_catalogue(feed, max_bad=0.5) for _ in range(3)]
    good = [f"p{n}" for n in range(300) if n % len(names) < 11]
    assert [[product.id for product in run.products] for run in runs] == [good] * 3
    reports = [(run.report.summary(), list(run.report.bad)) for run in runs]
    assert reports[0] == reports[1] == reports[2]
    assert len({run.fingerprint for run in runs}) == 1


def test_the_fingerprint_tells_catalogues_apart(feed_folder: Path, write_feed: WriteFeed) -> None:
    row = {"id": "1", "image": "0.jpg", "title": "Top", "description": "Soft", "colour": "red"}
    seen = {read_catalogue(write_feed([row])).fingerprint}
    for column, cell in {**row, "id": "2", "image": "1.jpg"}.items():
        other = cell if column in ("id", "image") else f"{cell}!"
        seen.add(read_catalogue(write_feed([{**row, column: other}])).fingerprint)
    with (feed_folder / "images" / "0.jpg").open("ab") as file:
        file.write(bytes(10))
    seen.add(read_catalogue(write_feed([row])).fingerprint)
    with (feed_folder / "images" / "0.jpg").open("r+b") as file:  # another one of the same size
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    seen.add(read_catalogue(write_feed([row]), check_images=False).fingerprint)
    assert len(seen) == 8


def test_the_fingerprint_of_pictures_goes_by_them_alone(
    feed_folder: Path, write_feed: WriteFeed
) -> None:
    shutil.copy(feed_folder / "images" / "0.jpg", feed_folder / "images" / "same.jpg")
    row = {"id": "1", "image": "0.jpg", "title": "Top", "price": "9"}
    other = {"id": "2", "image": "1.jpg", "title": "Hat", "price": "9"}

    def read(*rows: dict[str, str]) -> str:
        return read_catalogue(write_feed(list(rows))).pictures_fingerprint

    first = read(row, other)
    like = {"id": "3", "image": "same.jpg", "title": "Cap", "price": "8"}
    assert read(like, {**other, "title": "Cap"}) == first
    # Another order, and the same views in one product, which rows of an array do not tell apart
    # but products do.
    seen = {first, read(other, row), read({**row, "image": "0.jpg|1.jpg"}), read(row)}
    with (feed_folder / "images" / "0.jpg").open("ab") as file:
        file.write(bytes(10))
    seen.add(read(row, other))
    assert len(seen) == 5


def test_progress_goes_to_standard_error(
    write_feed: WriteFeed, capfd: pytest.CaptureFixture[str]
) -> None:
    read_catalogue(write_feed(GOOD), progress=True)
    shown = capfd.readouterr()
    assert "Checking pictures" in shown.err
    assert shown.out == ""


def test_a_failed_run_leaves_no_file_open(feed_folder: Path, write_feed: WriteFeed) -> None:
    with tarfile.open(feed_folder / "images.tar", "w") as tar:
        tar.add(feed_folder / "images" / "0.jpg", "0.jpg")
    feed = write_feed([{"id": "1", "image": "lost.jpg", "title": "Top"}])
    before = os.listdir("/proc/self/fd")
    with pytest.raises(CatalogueError):
        read_catalogue(feed)
    assert len(os.listdir("/proc/self/fd")) == len(before)
