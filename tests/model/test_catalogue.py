import csv
import io
import json
import os
import random
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from model.catalogue import Catalogue, ColumnMapping, Product, read_catalogue
from model.errors import CatalogueError
from model.preprocess import ImageLimits

Rows = list[dict[str, Any]]


def picture(seed: int, form: str = "JPEG") -> bytes:
    colour = tuple(random.Random(seed).randbytes(3))
    image = Image.effect_noise((24, 32), 60).convert("RGB")
    image.paste(colour, (4, 4, 20, 28))
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with `images/0.jpg` to `images/9.jpg` and some files that are no good pictures."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(10):
        (images / f"{number}.jpg").write_bytes(picture(number))
    (images / "p.png").write_bytes(picture(10, "PNG"))
    (images / "w.webp").write_bytes(picture(11, "WEBP"))
    (images / "cut.jpg").write_bytes(picture(12)[:-200])
    (images / "text.jpg").write_bytes(b"this is no picture")
    (images / "empty.jpg").write_bytes(b"")
    (images / "g.gif").write_bytes(picture(13, "GIF"))
    return tmp_path


def write_csv(shop: Path, rows: Rows, name: str = "feed.csv") -> Path:
    path = shop / name
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            cells = row.items()
            writer.writerow({k: "|".join(v) if isinstance(v, list) else v for k, v in cells})
    return path


def write_jsonl(shop: Path, rows: Rows) -> Path:
    path = shop / "feed.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def write_parquet(shop: Path, rows: Rows) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), shop / "feed.parquet")
    return shop / "feed.parquet"


def defects(catalogue: Catalogue) -> list[tuple[int, str, str]]:
    return [(bad.line, bad.id, bad.code) for bad in catalogue.report.bad]


GOOD: Rows = [
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


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
def test_the_three_formats_give_the_same_products(shop: Path, write: Any) -> None:
    with read_catalogue(write(shop, GOOD)) as catalogue:
        assert catalogue.products == GOOD_PRODUCTS
        for product, expected in zip(catalogue.products, GOOD_PRODUCTS, strict=True):
            assert {k: type(v) for k, v in product.attributes.items()} == {
                k: type(v) for k, v in expected.attributes.items()
            }
        report = catalogue.report
        assert (report.rows, report.products, report.pictures) == (3, 3, 4)
        assert report.bad == ()
        reference = read_catalogue(write_csv(shop, GOOD, "reference.csv"))
        assert catalogue.fingerprint == reference.fingerprint


def test_a_tar_gives_what_the_directory_gives(shop: Path) -> None:
    feed = write_csv(shop, GOOD)
    with read_catalogue(feed) as from_directory:
        products, fingerprint = from_directory.products, from_directory.fingerprint
        data = [from_directory.pictures.read(name) for p in products for name in p.images]
    with tarfile.open(shop / "images.tar", "w") as tar:
        for path in sorted((shop / "images").iterdir()):
            tar.add(path, path.name)
    shutil.rmtree(shop / "images")
    with read_catalogue(feed) as from_tar:
        assert from_tar.products == products
        assert from_tar.fingerprint == fingerprint
        assert [from_tar.pictures.read(name) for p in products for name in p.images] == data


@pytest.mark.parametrize("where", ["images.tar", "images", "feed's folder", "given"])
def test_where_pictures_are_looked_for(shop: Path, where: str) -> None:
    feed = write_csv(shop, [{"id": "a", "image": "0.jpg", "title": "Top"}])
    given = None
    match where:
        case "images.tar":
            with tarfile.open(shop / "images.tar", "w") as tar:
                tar.add(shop / "images" / "0.jpg", "images/0.jpg")
            shutil.rmtree(shop / "images")
        case "feed's folder":
            shutil.move(shop / "images" / "0.jpg", shop)
            shutil.rmtree(shop / "images")
        case "given":
            given = shop / "elsewhere"
            shutil.move(shop / "images", given)
    with read_catalogue(feed, images=given) as catalogue:
        assert [product.id for product in catalogue.products] == ["a"]


# Views


def test_views_by_rows_are_views_by_list(shop: Path) -> None:
    by_list = [
        {"id": "a", "image": "2.jpg|0.jpg", "title": "Top", "n": "1"},
        {"id": "b", "image": "1.jpg", "title": "Hat", "n": "2"},
    ]
    by_rows = [
        {"id": "a", "image": "2.jpg", "title": "Top", "n": "1"},
        {"id": "b", "image": "1.jpg", "title": "Hat", "n": "2"},
        {"id": "a", "image": "0.jpg", "title": " Top", "n": "3"},
    ]
    first = read_catalogue(write_csv(shop, by_list))
    second = read_catalogue(write_csv(shop, by_rows))
    assert first.products == second.products
    assert first.products[0].images == ("2.jpg", "0.jpg")
    assert first.products[0].attributes == {"n": 1}
    assert first.fingerprint == second.fingerprint
    assert second.report.bad == ()


def test_a_picture_stands_once_in_a_product_and_may_be_in_several(shop: Path) -> None:
    rows = [
        {"id": "a", "image": "0.jpg|images/0.jpg| ./0.jpg ||1.jpg", "title": "Top"},
        {"id": "a", "image": "1.jpg", "title": "Top"},
        {"id": "b", "image": "0.jpg", "title": "Hat"},
    ]
    catalogue = read_catalogue(write_csv(shop, rows))
    assert [product.images for product in catalogue.products] == [("0.jpg", "1.jpg"), ("0.jpg",)]
    assert catalogue.report.pictures == 3


def test_good_views_are_kept_and_each_bad_one_is_reported(shop: Path) -> None:
    rows = [
        {"id": "a", "image": "cut.jpg|0.jpg|none.jpg|text.jpg|1.jpg", "title": "Top"},
        {"id": "b", "image": "cut.jpg", "title": "Hat"},
        {"id": "b", "image": "text.jpg|none.jpg", "title": "Hat"},
        {"id": "c", "image": "cut.jpg", "title": "Bag"},
        {"id": "c", "image": "2.jpg", "title": "Bag"},
    ]
    catalogue = read_catalogue(write_csv(shop, rows), max_bad=1)
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


def test_another_separator_or_none(shop: Path) -> None:
    shutil.copy(shop / "images" / "0.jpg", shop / "images" / "a|b.jpg")
    rows = [{"id": "a", "image": "0.jpg;1.jpg", "title": "Top"}]
    columns = ColumnMapping(separator=";")
    catalogue = read_catalogue(write_csv(shop, rows), columns=columns)
    assert catalogue.products[0].images == ("0.jpg", "1.jpg")
    rows = [{"id": "a", "image": "a|b.jpg", "title": "Top"}]
    catalogue = read_catalogue(write_csv(shop, rows), columns=ColumnMapping(separator=""))
    assert catalogue.products[0].images == ("a|b.jpg",)


# Bad rows

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


def test_every_bad_row_is_left_out_and_reported_with_its_line(shop: Path) -> None:
    feed = shop / "feed.csv"
    feed.write_bytes(BAD_FEED)
    catalogue = read_catalogue(feed, max_bad=0.8, report_path=shop / "bad.jsonl")
    assert [(product.id, product.images) for product in catalogue.products] == [
        ("ok", ("0.jpg", "1.jpg")),
        ("quote", ("2.jpg", "3.jpg")),
        ("last", ("5.jpg",)),
    ]
    assert defects(catalogue) == BAD_LINES
    assert catalogue.report.rows == 21
    assert catalogue.report.bad_rows == len(BAD_LINES)
    assert "16 bad rows (4 unreadable_picture, " in catalogue.report.summary()
    written = [json.loads(line) for line in (shop / "bad.jsonl").read_text("utf-8").splitlines()]
    assert [(bad["line"], bad["id"], bad["code"]) for bad in written] == BAD_LINES
    details = {bad["line"]: bad["detail"] for bad in written}
    assert "'lost.jpg' is not in" in details[6]
    assert "'cut.jpg': the picture is damaged" in details[9]
    assert "GIF" in details[12]
    assert details[16] == "the text that came first, at 2, is another: 'Top'"


def test_without_a_check_only_missing_pictures_are_noticed(shop: Path) -> None:
    feed = shop / "feed.csv"
    feed.write_bytes(BAD_FEED)
    catalogue = read_catalogue(feed, max_bad=0.8, check_images=False)
    assert defects(catalogue) == [bad for bad in BAD_LINES if bad[2] != "unreadable_picture"]


def test_links_that_lead_out_of_the_directory(shop: Path) -> None:
    (shop / "secret.jpg").write_bytes(picture(1))
    (shop / "images" / "link.jpg").symlink_to(shop / "secret.jpg")
    rows = [
        {"id": "a", "image": "0.jpg", "title": "Top"},
        {"id": "b", "image": "link.jpg", "title": "Hat"},
    ]
    catalogue = read_catalogue(write_csv(shop, rows), max_bad=0.5)
    assert defects(catalogue) == [(3, "b", "outside_pictures")]


def test_jsonl_bad_rows(shop: Path) -> None:
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
    (shop / "feed.jsonl").write_bytes(b"\n".join(lines))
    catalogue = read_catalogue(shop / "feed.jsonl", max_bad=0.9)
    assert catalogue.products == [Product("7", "Top", "Top", ("0.jpg",), {"ok": True})]
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


def test_a_picture_over_the_limits_is_refused(shop: Path) -> None:
    (shop / "images" / "large.png").write_bytes(picture(0, "PNG") + bytes(50_000))
    rows = [
        {"id": "a", "image": "0.jpg", "title": "Top"},
        {"id": "b", "image": "large.png", "title": "Hat"},
    ]
    feed = write_csv(shop, rows)
    catalogue = read_catalogue(feed, max_bad=0.5, limits=ImageLimits(max_bytes=50_000))
    assert defects(catalogue) == [(3, "b", "unreadable_picture")]
    with pytest.raises(CatalogueError, match=r"24×32 pixels"):
        read_catalogue(feed, limits=ImageLimits(max_pixels=500))


# The threshold


def one_bad_in_ten(shop: Path) -> Path:
    rows = [{"id": f"p{n}", "image": f"{n}.jpg", "title": f"Top {n}"} for n in range(10)]
    rows[4]["image"] = "lost.jpg"
    return write_csv(shop, rows)


def test_the_run_goes_on_up_to_the_threshold(shop: Path) -> None:
    assert len(read_catalogue(one_bad_in_ten(shop), max_bad=0.1)) == 9


@pytest.mark.parametrize("name", ["bad.jsonl", "bad.csv"])
def test_above_the_threshold_the_report_is_written_first(shop: Path, name: str) -> None:
    with pytest.raises(CatalogueError) as caught:
        read_catalogue(one_bad_in_ten(shop), max_bad=0.09, report_path=shop / name)
    message = str(caught.value)
    assert "10.0% of the rows" in message
    assert "more than the 9.0% allowed (1 of 10: 1 missing_picture)" in message
    assert str(shop / name) in message
    assert "lost.jpg" in (shop / name).read_text("utf-8")


def test_without_a_report_the_error_quotes_the_first_bad_rows(shop: Path) -> None:
    with pytest.raises(CatalogueError, match=r"6: missing_picture, 'lost\.jpg' is not in"):
        read_catalogue(one_bad_in_ten(shop), max_bad=0)


def test_a_catalogue_without_a_product_is_an_error_at_any_threshold(shop: Path) -> None:
    rows = [{"id": "a", "image": "lost.jpg", "title": "Top"}]
    with pytest.raises(CatalogueError, match=r"no row of .* can be used"):
        read_catalogue(write_csv(shop, rows), max_bad=1)


@pytest.mark.parametrize("max_bad", [-0.1, 5, float("nan")])
def test_the_threshold_is_a_share(shop: Path, max_bad: float) -> None:
    with pytest.raises(CatalogueError, match="share of the rows, from 0 to 1"):
        read_catalogue(one_bad_in_ten(shop), max_bad=max_bad)


# Columns and templates


def test_column_mapping(shop: Path) -> None:
    rows = [{"sku": "1", "photo": "0.jpg", "name": "Top", "details": "Soft", "colour": "red"}]
    columns = ColumnMapping(id="sku", image="photo", title="name", description="details")
    catalogue = read_catalogue(write_csv(shop, rows), columns=columns)
    expected = Product("1", "Top. Soft", "Top", ("0.jpg",), {"colour": "red"})
    assert catalogue.products == [expected]


def test_template_columns_remain_attributes(shop: Path) -> None:
    rows = [{"id": "1", "image": "0.jpg", "title": "Top", "colour": "red", "description": "Soft"}]
    text = "{title}. {description} {colour} ({size})"
    rows.append({**rows[0], "id": "2", "description": "", "size": "M"})
    catalogue = read_catalogue(write_jsonl(shop, rows), text=text)
    assert [product.text for product in catalogue.products] == ["Top. Soft red", "Top. red (M)"]
    assert catalogue.products[1].attributes == {"colour": "red", "size": "M"}
    assert catalogue.products[1].title == "Top"


def test_a_title_is_not_needed_when_there_is_a_template(shop: Path) -> None:
    feed = write_csv(shop, [{"id": "1", "image": "0.jpg", "name": "Top"}])
    assert read_catalogue(feed, text="{name}").products[0].title == "Top"


def test_a_description_alone_makes_a_text(shop: Path) -> None:
    feed = write_csv(shop, [{"id": "1", "image": "0.jpg", "description": "Soft"}])
    assert read_catalogue(feed).products[0].text == "Soft"


def test_lists_and_objects_as_attributes(shop: Path) -> None:
    row = {"id": "1", "image": "0.jpg", "title": "Top", "tags": ["a", None, "b"], "none": []}
    row |= {"size": {"eu": 36}, "nan": float("nan"), "large": 10**30, "no": False}
    catalogue = read_catalogue(write_jsonl(shop, [row]))
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
def test_a_column_that_is_not_there(shop: Path, columns: ColumnMapping, option: str) -> None:
    feed = write_csv(shop, [{"id": "1", "image": "0.jpg", "title": "Top", "colour": "red"}])
    with pytest.raises(CatalogueError, match=option) as caught:
        read_catalogue(feed, columns=columns)
    assert "its columns are id, image, title, colour" in str(caught.value)


def test_nothing_to_make_a_text_of(shop: Path) -> None:
    feed = write_csv(shop, [{"id": "1", "image": "0.jpg", "name": "Top"}])
    with pytest.raises(CatalogueError, match=r"neither .*its columns are id, image, name.*--text"):
        read_catalogue(feed)


def test_a_template_that_names_an_unknown_column(shop: Path) -> None:
    feed = write_csv(shop, [{"id": "1", "image": "0.jpg", "title": "Top"}])
    with pytest.raises(CatalogueError, match=r"names \{color\}.*its columns are id, image, title"):
        read_catalogue(feed, text="{title} {color}")


@pytest.mark.parametrize("images", ["none", "images/text.jpg"])
def test_pictures_that_are_neither_a_directory_nor_a_tar(shop: Path, images: str) -> None:
    feed = write_csv(shop, [{"id": "1", "image": "0.jpg", "title": "Top"}])
    with pytest.raises(CatalogueError, match=r"directory or an? .*\.tar"):
        read_catalogue(feed, images=shop / images)


# What stays the same, and what does not


def test_order_and_fingerprint_do_not_depend_on_threads(shop: Path) -> None:
    names = [*(f"{n}.jpg" for n in range(10)), "p.png", "cut.jpg", "text.jpg"]
    for n in range(300):
        shutil.copy(shop / "images" / names[n % len(names)], shop / "images" / f"x{n}.jpg")
    rows = [{"id": f"p{n}", "image": f"x{n}.jpg", "title": f"Top {n}"} for n in range(300)]
    feed = write_csv(shop, rows)
    runs = [read_catalogue(feed, max_bad=0.5) for _ in range(3)]
    good = [f"p{n}" for n in range(300) if n % len(names) < 11]
    assert [[product.id for product in run.products] for run in runs] == [good] * 3
    assert runs[0].report == runs[1].report == runs[2].report
    assert len({run.fingerprint for run in runs}) == 1


def test_the_fingerprint_tells_catalogues_apart(shop: Path) -> None:
    row = {"id": "1", "image": "0.jpg", "title": "Top", "description": "Soft", "colour": "red"}
    seen = {read_catalogue(write_csv(shop, [row])).fingerprint}
    for column, cell in {**row, "id": "2", "image": "1.jpg"}.items():
        other = cell if column in ("id", "image") else f"{cell}!"
        seen.add(read_catalogue(write_csv(shop, [{**row, column: other}])).fingerprint)
    with (shop / "images" / "0.jpg").open("ab") as file:
        file.write(bytes(10))
    seen.add(read_catalogue(write_csv(shop, [row])).fingerprint)
    assert len(seen) == 7


def test_progress_goes_to_standard_error(shop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    read_catalogue(write_csv(shop, GOOD), progress=True)
    shown = capfd.readouterr()
    assert "Checking pictures" in shown.err
    assert shown.out == ""


def test_a_failed_run_leaves_no_file_open(shop: Path) -> None:
    with tarfile.open(shop / "images.tar", "w") as tar:
        tar.add(shop / "images" / "0.jpg", "0.jpg")
    feed = write_csv(shop, [{"id": "1", "image": "lost.jpg", "title": "Top"}])
    before = os.listdir("/proc/self/fd")
    with pytest.raises(CatalogueError):
        read_catalogue(feed)
    assert len(os.listdir("/proc/self/fd")) == len(before)
