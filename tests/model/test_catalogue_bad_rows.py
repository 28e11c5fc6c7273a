"""Rows that cannot be used: left out, reported, and too many of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from model.catalogue import read_catalogue
from model.errors import CatalogueError
from model.preprocess import ImageLimits
from model.product import Catalogue, Product

WriteFeed = Callable[..., Path]


def defects(catalogue: Catalogue) -> list[tuple[int, str, str]]:
    return [(bad.line, bad.id, bad.code) for bad in catalogue.report.bad]


BAD_FEED = b"""\
id,image,title
ok,0.jpg,Top
,0.jpg,no id
text,0.jpg,"  "
none,,no image
lost,lost.jpg,lost image
out,../feed.csv,leads out
root,/etc/passwd,leads out
cut,cut.jpg,cut short
noimg,text.jpg,no image
null,empty.jpg,empty file
gif,g.gif,another format
latin,0.jpg,caf\xe9
nul,0.jpg,n\0l
short,0.jpg
ok,1.jpg,Other
ok,1.jpg,Top
quote,2.jpg,"two
lines"
,3.jpg,no id
quote,3.jpg,"two lines"
open,4.jpg,"open
last,5.jpg,Hat
"""

BAD_LINES = [
    (3, "", "missing_id"),
    (4, "text", "empty_text"),
    (5, "none", "missing_picture"),
    (6, "lost", "missing_picture"),
    (7, "out", "outside_pictures"),
    (8, "root", "outside_pictures"),
    (9, "cut", "unreadable_picture"),
    (10, "noimg", "unreadable_picture"),
    (11, "null", "unreadable_picture"),
    (12, "gif", "unreadable_picture"),
    (13, "latin", "wrong_encoding"),
    (14, "nul", "wrong_encoding"),
    (15, "", "malformed"),
    (16, "ok", "repeated_id"),
    (20, "", "missing_id"),
    (22, "", "malformed"),
]


def test_rows_that_the_service_would_not_take(feed_folder: Path) -> None:
    feed = feed_folder / "other.csv"
    long, blank = "i" * 513, "\u200b \ufeff"
    feed.write_text(f"id,image,title\n{long},1.jpg,Top\nb,1.jpg,{blank}\n{long[:512]},1.jpg,Top\n")
    with read_catalogue(feed, max_bad=1) as catalogue:
        assert [(row.line, row.code) for row in catalogue.report.bad] == [
            (2, "id_too_long"),
            (3, "empty_text"),
        ]
        assert [product.id for product in catalogue.products] == [long[:512]]


def test_later_rows_may_leave_out_what_the_first_has_said(feed_folder: Path) -> None:
    feed = feed_folder / "other.csv"
    rows = ["id,image,title,size", "a,0.jpg,Top,S", "a,1.jpg,,M", "a,,,L", "b,,,S", "c,2.jpg,,S"]
    feed.write_text("\n".join(rows))
    with read_catalogue(feed, max_bad=1) as catalogue:
        assert [(row.line, row.code) for row in catalogue.report.bad] == [
            (5, "empty_text"),
            (6, "empty_text"),
        ]
        (product,) = catalogue.products
    assert (product.text, product.images) == ("Top", ("0.jpg", "1.jpg"))
    assert product.attributes == {"size": "S"}


def test_a_first_row_without_its_picture_still_says_what_the_product_is(feed_folder: Path) -> None:
    feed = feed_folder / "other.csv"
    rows = ["id,image,title,size", "a,lost.jpg,Top,S", "a,1.jpg,,M", "b,lost.jpg,Hat,S"]
    rows += ["c,lost.jpg,Coat,S", "c,2.jpg,Cape,M", "c,3.jpg,Coat,L"]
    feed.write_text("\n".join(rows))
    with read_catalogue(feed, max_bad=1) as catalogue:
        assert [(row.line, row.code) for row in catalogue.report.bad] == [
            (2, "missing_picture"),
            (4, "missing_picture"),
            (5, "missing_picture"),
            (7, "repeated_id"),
        ]
        a, c = catalogue.products
    assert (a.id, a.text, a.images, a.attributes) == ("a", "Top", ("1.jpg",), {"size": "S"})
    # Where the next row says what it is by itself, that counts.
    assert (c.id, c.text, c.images, c.attributes) == ("c", "Cape", ("2.jpg",), {"size": "M"})


def test_every_bad_row_is_left_out_and_reported_with_its_line(feed_folder: Path) -> None:
    feed = feed_folder / "feed.csv"
    feed.write_bytes(BAD_FEED)
    catalogue = read_catalogue(feed, max_bad=0.8, report_path=feed_folder / "bad.jsonl")
    assert [(product.id, product.images) for product in catalogue.products] == [
        ("ok", ("0.jpg", "1.jpg")),
        ("quote", ("2.jpg", "3.jpg")),
        ("last", ("5.jpg",)),
    ]
    assert defects(catalogue) == BAD_LINES
    assert catalogue.report.rows == 21
    assert catalogue.report.bad_rows == len(BAD_LINES)
    assert "16 bad rows (4 unreadable_picture, " in catalogue.report.summary()
    written = [
        json.loads(line) for line in (feed_folder / "bad.jsonl").read_text("utf-8").splitlines()
    ]
    assert [(bad["line"], bad["id"], bad["code"]) for bad in written] == BAD_LINES
    details = {bad["line"]: bad["detail"] for bad in written}
    assert "'lost.jpg' is not in" in details[6]
    assert "'cut.jpg': the picture is damaged" in details[9]
    assert "GIF" in details[12]
    assert details[16] == "the text that came first, at 2, is another: 'Top'"


def test_without_a_check_only_missing_pictures_are_noticed(feed_folder: Path) -> None:
    feed = feed_folder / "feed.csv"
    feed.write_bytes(BAD_FEED)
    catalogue = read_catalogue(feed, max_bad=0.8, check_images=False)
    assert defects(catalogue) == [bad for bad in BAD_LINES if bad[2] != "unreadable_picture"]


def test_good_views_are_kept_and_each_bad_one_is_reported(write_feed: WriteFeed) -> None:
    rows = [
        {"id": "a", "image": "cut.jpg|0.jpg|none.jpg|text.jpg|1.jpg", "title": "Top"},
        {"id": "b", "image": "cut.jpg", "title": "Hat"},
        {"id": "b", "image": "text.jpg|none.jpg", "title": "Hat"},
        {"id": "c", "image": "cut.jpg", "title": "Bag"},
        {"id": "c", "image": "2.jpg", "title": "Bag"},
    ]
    catalogue = read_catalogue(write_feed(rows), max_bad=1)
    assert [(product.id, product.images) for product in catalogue.products] == [
        ("a", ("0.jpg", "1.jpg")),
        ("c", ("2.jpg",)),
    ]
    assert defects(catalogue) == [
        (2, "a", "missing_picture"),
        (2, "a", "unreadable_picture"),
        (2, "a", "unreadable_picture"),
        (3, "b", "unreadable_picture"),
        (4, "b", "missing_picture"),
        (4, "b", "unreadable_picture"),
        (5, "c", "unreadable_picture"),
    ]
    assert catalogue.report.bad_rows == 4


def test_links_that_lead_out_of_the_directory(feed_folder: Path, write_feed: WriteFeed) -> None:
    shutil.copy(feed_folder / "images" / "1.jpg", feed_folder / "secret.jpg")
    (feed_folder / "images" / "link.jpg").symlink_to(feed_folder / "secret.jpg")
    rows = [
        {"id": "a", "image": "0.jpg", "title": "Top"},
        {"id": "b", "image": "link.jpg", "title": "Hat"},
    ]
    catalogue = read_catalogue(write_feed(rows), max_bad=0.5)
    assert defects(catalogue) == [(3, "b", "outside_pictures")]


def test_jsonl_bad_rows(feed_folder: Path) -> None:
    lines = [
        b'{"id": 7, "image": ["0.jpg"], "title": "Top", "ok": true}',
        b"{",
        b'{"id": null, "image": "0.jpg", "title": "Top"}',
        b'{"id": true, "image": "0.jpg", "title": "Top"}',
        b'{"id": "a", "image": [1, {"bytes": ""}], "title": "Top"}',
        b'{"id": "b", "image": 5, "title": "Top"}',
        b'{"id": "c", "image": ["0.jpg"], "title": "caf\xe9"}',
        b'{"id": "d", "title": "Top"}',
    ]
    (feed_folder / "feed.jsonl").write_bytes(b"\n".join(lines))
    catalogue = read_catalogue(feed_folder / "feed.jsonl", max_bad=0.9)
    assert list(catalogue.products) == [Product("7", "Top", "Top", ("0.jpg",), {"ok": True})]
    assert defects(catalogue) == [
        (2, "", "malformed"),
        (3, "", "missing_id"),
        (4, "", "missing_id"),
        (5, "a", "missing_picture"),
        (5, "a", "missing_picture"),
        (6, "b", "missing_picture"),
        (7, "c", "wrong_encoding"),
        (8, "d", "missing_picture"),
    ]


def test_a_picture_over_the_limits_is_refused(feed_folder: Path, write_feed: WriteFeed) -> None:
    png = (feed_folder / "images" / "p.png").read_bytes()
    (feed_folder / "images" / "large.png").write_bytes(png + bytes(50_000))
    rows = [
        {"id": "a", "image": "0.jpg", "title": "Top"},
        {"id": "b", "image": "large.png", "title": "Hat"},
    ]
    feed = write_feed(rows)
    catalogue = read_catalogue(feed, max_bad=0.5, limits=ImageLimits(max_bytes=50_000))
    assert defects(catalogue) == [(3, "b", "unreadable_picture")]
    with pytest.raises(CatalogueError, match=r"24×32 pixels"):
        read_catalogue(feed, limits=ImageLimits(max_pixels=500))


@pytest.mark.parametrize("check", [True, False])
def test_a_file_that_is_larger_than_any_picture_is_not_read(
    feed_folder: Path, write_feed: WriteFeed, check: bool
) -> None:
    with (feed_folder / "images" / "film.jpg").open("wb") as file:
        file.truncate(1 << 42)  # more than there is memory
    rows = [
        {"id": "a", "image": "0.jpg", "title": "Top"},
        {"id": "b", "image": "film.jpg", "title": "Hat"},
    ]
    catalogue = read_catalogue(write_feed(rows), max_bad=0.5, check_images=check)
    assert defects(catalogue) == ([(3, "b", "unreadable_picture")] if check else [])


ARRAY = "malformed, one JSON array: JSONL wants one object a line"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "feed.csv",
            "id;title;image\n1;a;0.jpg;\n2;b;1.jpg;\n",
            "(2 of 2: 2 malformed); the first are, by line, 2: malformed, 4 cells where the header "
            "has 3; 3: malformed, 4 cells",
        ),
        (
            "feed.jsonl",
            '[{"id": 1}, {"id": 2}]',
            f"(1 of 1: 1 malformed); the first are, by line, 1: {ARRAY}",
        ),
        (
            "feed.jsonl",
            '[\n{"id": 1},\n]',
            f"(3 of 3: 3 malformed); the first are, by line, 1: {ARRAY}",
        ),
    ],
)
def test_a_feed_without_a_readable_row_is_not_asked_for_columns(
    feed_folder: Path, name: str, content: str, told: str
) -> None:
    feed = feed_folder / name
    feed.write_text(content)
    with pytest.raises(CatalogueError) as caught:
        read_catalogue(feed)
    assert f"no row of {feed} can be used {told}" in str(caught.value)
    with pytest.raises(CatalogueError, match=r"all of them are in .*bad\.csv\. Mend the feed"):
        read_catalogue(feed, report_path=feed_folder / "bad.csv")
    written = (feed_folder / "bad.csv").read_text().splitlines()
    assert written[0] == "line,id,code,detail"
    assert ",malformed," in written[1]


# The threshold


def one_bad_in_ten(write_feed: WriteFeed) -> Path:
    rows = [{"id": f"p{n}", "image": f"{n}.jpg", "title": f"Top {n}"} for n in range(10)]
    rows[4]["image"] = "lost.jpg"
    return write_feed(rows)


def test_the_run_goes_on_up_to_the_threshold(write_feed: WriteFeed) -> None:
    assert len(read_catalogue(one_bad_in_ten(write_feed), max_bad=0.1)) == 9


@pytest.mark.parametrize("name", ["bad.jsonl", "bad.csv"])
def test_above_the_threshold_the_report_is_written_first(
    feed_folder: Path, write_feed: WriteFeed, name: str
) -> None:
    with pytest.raises(CatalogueError) as caught:
        read_catalogue(one_bad_in_ten(write_feed), max_bad=0.09, report_path=feed_folder / name)
    message = str(caught.value)
    assert "10.0% of the rows" in message
    assert "more than the 9.0% allowed (1 of 10: 1 missing_picture)" in message
    assert str(feed_folder / name) in message
    assert "lost.jpg" in (feed_folder / name).read_text("utf-8")


def test_without_a_report_the_error_quotes_the_first_bad_rows(write_feed: WriteFeed) -> None:
    with pytest.raises(CatalogueError, match=r"6: missing_picture, 'lost\.jpg' is not in"):
        read_catalogue(one_bad_in_ten(write_feed), max_bad=0)


def test_a_catalogue_without_a_product_is_an_error_at_any_threshold(write_feed: WriteFeed) -> None:
    rows = [{"id": "a", "image": "lost.jpg", "title": "Top"}]
    with pytest.raises(CatalogueError, match=r"no row of .* can be used"):
        read_catalogue(write_feed(rows), max_bad=1)


@pytest.mark.parametrize("max_bad", [-0.1, 5, float("nan")])
def test_the_threshold_is_a_share(write_feed: WriteFeed, max_bad: float) -> None:
    with pytest.raises(CatalogueError, match="share of the rows, from 0 to 1"):
        read_catalogue(one_bad_in_ten(write_feed), max_bad=max_bad)
