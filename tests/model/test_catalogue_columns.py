"""Which columns a product is made of: mappings, templates and attributes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from model.catalogue import ColumnMapping, Product, read_catalogue
from model.errors import CatalogueError

WriteFeed = Callable[..., Path]


def test_column_mapping(write_feed: WriteFeed) -> None:
    rows = [{"sku": "1", "photo": "0.jpg", "name": "Top", "details": "Soft", "colour": "red"}]
    columns = ColumnMapping(id="sku", image="photo", title="name", description="details")
    catalogue = read_catalogue(write_feed(rows), columns=columns)
    expected = Product("1", "Top. Soft", "Top", ("0.jpg",), {"colour": "red"})
    assert catalogue.products == [expected]


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
        "tags": "a, b",
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
