"""Which columns a product is made of: mappings, templates and attributes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.catalogue import read_catalogue
from model.errors import CatalogueError
from model.product import ColumnMapping, Product

WriteFeed = Callable[..., Path]


def test_column_mapping(write_feed: WriteFeed) -> None:
    rows = [{"sku": "1", "photo": "0.jpg", "name": "Top", "details": "Soft", "colour": "red"}]
    columns = ColumnMapping(id="sku", image="photo", title="name", description="details")
    catalogue = read_catalogue(write_feed(rows), columns=columns)
    expected = Product("1", "Top. Soft", "Top", ("0.jpg",), {"colour": "red"})
    assert list(catalogue.products) == [expected]


def test_template_columns_remain_attributes(write_feed: WriteFeed) -> None:
    rows = [{"id": "1", "image": "0.jpg", "title": "Top", "colour": "red", "description": "Soft"}]
    text = "{title}. {description} {colour} ({size})"
    rows.append({**rows[0], "id": "2", "description": "", "size": "M"})
    catalogue = read_catalogue(write_feed(rows, "feed.jsonl"), text=text)
    assert [product.text for product in catalogue.products] == ["Top. Soft red", "Top. red (M)"]
    assert catalogue.products[1].attributes == {"colour": "red", "size": "M"}
    assert catalogue.products[1].title == "Top"


def test_a_title_is_not_needed_when_there_is_a_template(write_feed: WriteFeed) -> None:
    feed = write_feed([{"id": "1", "image": "0.jpg", "name": "Top"}])
    assert read_catalogue(feed, text="{name}").products[0].title == "Top"


def test_a_description_alone_makes_a_text(write_feed: WriteFeed) -> None:
    feed = write_feed([{"id": "1", "image": "0.jpg", "description": "Soft"}])
    assert read_catalogue(feed).products[0].text == "Soft"


def test_lists_and_objects_as_attributes(write_feed: WriteFeed) -> None:
    row = {"id": "1", "image": "0.jpg", "title": "Top", "tags": ["a", None, "b"], "none": []}
    row |= {"size": {"eu": 36}, "nan": float("nan"), "large": 10**30, "no": False}
    catalogue = read_catalogue(write_feed([row], "feed.jsonl"))
    assert catalogue.products[0].attributes == {
        "tags": ("a", "b"),
        "size": '{"eu": 36}',
        "large": "1" + "0" * 30,
        "no": False,
    }


@pytest.mark.parametrize(
    ("columns", "option"),
    [
        (ColumnMapping(id="sku"), "no column 'sku'.*--id-column"),
        (ColumnMapping(image="photo"), "no column 'photo'.*--image-column"),
        (ColumnMapping(title="name"), "no column 'name'.*--title-column"),
        (ColumnMapping(description="info"), "no column 'info'.*--description-column"),
    ],
)
def test_a_column_that_is_not_there(
    write_feed: WriteFeed, columns: ColumnMapping, option: str
) -> None:
    feed = write_feed([{"id": "1", "image": "0.jpg", "title": "Top", "colour": "red"}])
    with pytest.raises(CatalogueError, match=option) as caught:
        read_catalogue(feed, columns=columns)
    assert "its columns are id, image, title, colour" in str(caught.value)


def test_nothing_to_make_a_text_of(write_feed: WriteFeed) -> None:
    feed = write_feed([{"id": "1", "image": "0.jpg", "name": "Top"}])
    with pytest.raises(CatalogueError, match=r"neither .*its columns are id, image, name.*--text"):
        read_catalogue(feed)


def test_a_template_that_names_an_unknown_column(write_feed: WriteFeed) -> None:
    feed = write_feed([{"id": "1", "image": "0.jpg", "title": "Top"}])
    with pytest.raises(CatalogueError, match=r"names \{color\}.*its columns are id, image, title"):
        read_catalogue(feed, text="{title} {color}")


@pytest.mark.parametrize("name", ["feed.jsonl", "feed.parquet"])
def test_lists_are_lists_of_distinct_strings(write_feed: WriteFeed, name: str) -> None:
    rows: list[dict[str, Any]] = [
        {
            "id": "1",
            "image": "0.jpg",
            "title": "Top",
            "sizes": ["M", " S", "M", ""],
            "eu": [38, 40],
        },
        {"id": "2", "image": "1.jpg", "title": "Hat", "sizes": [], "eu": None},
    ]
    text = "{title}: {sizes}"
    first, second = read_catalogue(write_feed(rows, name), text=text).products
    assert first.attributes == {"sizes": ("M", "S"), "eu": ("38", "40")}
    assert (first.text, second.text) == ("Top: M, S, M", "Hat")
    assert second.attributes == {}


@pytest.mark.parametrize("name", ["feed.csv", "feed.jsonl"])
def test_columns_that_are_said_to_be_lists(write_feed: WriteFeed, name: str) -> None:
    rows = [
        {"id": "1", "image": "0.jpg", "title": "Top", "sizes": "S|M | L||S", "eu": "38"},
        {"id": "2", "image": "1.jpg", "title": "Hat", "sizes": "", "eu": "40|42"},
    ]
    columns = ColumnMapping(lists=("sizes", "eu"))
    feed = write_feed(rows, name)
    first, second = read_catalogue(feed, text="{title}: {sizes}", columns=columns).products
    assert first.attributes == {"sizes": ("S", "M", "L"), "eu": ("38",)}
    assert first.text == "Top: S, M, L, S"
    assert second.attributes == {"eu": ("40", "42")}
    whole = ColumnMapping(lists=("sizes",), separator="")
    assert read_catalogue(feed, columns=whole).products[0].attributes["sizes"] == ("S|M | L||S",)


@pytest.mark.parametrize(
    ("name", "message"),
    [("size", "--list-column size: .*no such column.*id, image"), ("title", "column is the title")],
)
def test_what_cannot_be_a_list(write_feed: WriteFeed, name: str, message: str) -> None:
    feed = write_feed([{"id": "1", "image": "0.jpg", "title": "Top"}])
    with pytest.raises(CatalogueError, match=message):
        read_catalogue(feed, columns=ColumnMapping(lists=(name,)))


def test_booleans_of_csv(write_feed: WriteFeed) -> None:
    rows = [
        {"id": f"{n}", "image": f"{n}.jpg", "title": f"Top {n}", "sold_out": cell, "odd": odd}
        for n, (cell, odd) in enumerate(
            [("true", "true"), ("FALSE", "no"), ("", ""), (" True ", "")]
        )
    ]
    products = read_catalogue(write_feed(rows)).products
    assert [product.attributes.get("sold_out") for product in products] == [True, False, None, True]
    assert products[0].attributes["odd"] == "true"


def test_the_template_by_what_its_columns_stand_for(write_feed: WriteFeed) -> None:
    row = {"sku": "1", "image": "0.jpg", "name": "Top", "details": "Soft", "farbe": "rot"}
    feed = write_feed([row])
    columns = ColumnMapping(id="sku", title="name", description="details")
    text = "{{x}} {sku}: {name}. {details} {farbe}"
    catalogue = read_catalogue(feed, text=text, columns=columns)
    assert catalogue.text_template == "{{x}} {id}: {title}. {description} {farbe}"
    row["title"] = "another column of the feed's"
    catalogue = read_catalogue(write_feed([row]), text="{name} {title}", columns=columns)
    assert catalogue.text_template == "{name} {title}"


def test_a_column_that_is_nearly_numbers_is_told_of(write_feed: WriteFeed) -> None:
    cells = {
        "price": ["9.99", "49.99", "n/a", "120.00"],
        "old": ["19,99", "5", "1.299,00", "7,5"],
        "ean": ["0123", "12", "13", "x"],
        "colour": ["red", "blue", "red", "12"],
    }
    rows = [
        {"id": f"{n}", "image": f"{n}.jpg", "title": "Top", **{k: v[n] for k, v in cells.items()}}
        for n in range(4)
    ]
    price, old = read_catalogue(write_feed(rows)).report.doubts
    assert price.startswith("price is text because of line 4: 'n/a' (1 of 4 cells")
    assert old.startswith("old is text because of line 2: '19,99'")
    assert "decimals with a point" in old
    for row, number in zip(rows, (9.99, 49.99, "n/a", 120), strict=True):
        row["price"] = number  # type: ignore[assignment]
    told = read_catalogue(write_feed(rows, "feed.jsonl")).report.doubts
    assert [one.split(" (")[0] for one in told if "price" in one] == [
        "price is mixed because of line 3: 'n/a'"
    ]


def test_columns_that_the_service_would_not_take(write_feed: WriteFeed) -> None:
    row: dict[str, Any] = {"id": "1", "image": "0.jpg", "title": "Top", "": "x", " ": "y"}
    row |= {"k" * 512: "taken", "l" * 513: "left out"}
    catalogue = read_catalogue(write_feed([row], "feed.jsonl"))
    assert catalogue.products[0].attributes == {"k" * 512: "taken"}
    (doubt,) = catalogue.report.doubts
    assert "its name has 513 characters, at most 512 are taken" in doubt

    many = {f"a{number}": number for number in range(257)}
    catalogue = read_catalogue(write_feed([{**row, **many}], "many.jsonl"))
    assert len(catalogue.products[0].attributes) == 258
    assert "there are 258 attributes" in catalogue.report.doubts[1]
