import io
import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from model.catalogue import read_catalogue
from model.errors import CatalogueError, TrainingError
from model.evaluate import groups_of
from model.fashiongen import FashionGenPictures, read_fashiongen
from model.feed_report import BadRow
from model.holdout import hold_out, only
from model.preprocess import decode_image
from model.product import Product

SIDE = 32
TEXTS = (
    "name",
    "description",
    "concat_description",
    "category",
    "subcategory",
    "gender",
    "brand",
    "composition",
    "department",
    "season",
    "pose",
)

Rows = list[dict[str, Any]]


def view(id: str, number: int, **cells: Any) -> dict[str, Any]:
    """A row of the product `id`."""
    return {
        "productID": id,
        "name": f"Chemise {id}",
        "description": f"Chemise à manches longues,<br> modèle {id}.",
        "concat_description": f"Chemise {id} à manches longues",
        "category": "SHIRTS",
        "subcategory": "SHIRTS" if int(id) % 2 else "BLOUSES",
        "gender": "Women",
        "brand": "Façonnable",
        "composition": "100% soie.",
        "department": "CLOTHING",
        "season": "SS2016",
        "pose": f"id_gridfs_{number}",
        "msrpUSD": 99.95,
        **cells,
    }


GOOD: Rows = [view("86", n) for n in (1, 2, 3)] + [view("87", 1), view("97", 1), view("97", 2)]


def pixels(rows: int) -> Any:
    return np.random.default_rng(5).integers(0, 256, (rows, SIDE, SIDE, 3), dtype=np.uint8)


def write(path: Path, rows: Rows, *, numbers_for_ids: bool = False, **images: Any) -> Path:
    """A file in the layout of Fashion-Gen; `images` are options of the pictures' dataset."""
    count = len(rows)

    def column(name: str) -> Any:
        return [[row[name].encode("latin-1")] for row in rows]

    with h5py.File(path, "w") as file:
        file.create_dataset("input_image", data=pixels(count), **images)
        file["index"] = np.arange(count).reshape(count, 1)
        file["index_2"] = np.arange(count)
        for name in TEXTS:
            file[f"input_{name}"] = np.array(column(name), dtype="S200")
        if numbers_for_ids:
            file["input_productID"] = np.array([[int(row["productID"])] for row in rows])
        else:
            file["input_productID"] = np.array(column("productID"), dtype="S16")
        file["input_msrpUSD"] = np.array([[row["msrpUSD"]] for row in rows], dtype=np.float32)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "fashiongen_256_256_train.h5", GOOD)


@pytest.mark.parametrize("name", ["train.h5", "TRAIN.HDF5"])
def test_it_is_told_by_its_name(name: str, tmp_path: Path) -> None:
    with read_catalogue(write(tmp_path / name, GOOD)) as catalogue:
        assert [product.id for product in catalogue.products] == ["86", "87", "97"]


def test_rows_become_products_with_their_views(path: Path) -> None:
    with read_fashiongen(path) as catalogue:
        first, second, third = catalogue.products
    assert first == Product(
        id="86",
        text="Chemise 86. Chemise à manches longues, modèle 86.",
        title="Chemise 86",
        images=("input_image/0", "input_image/1", "input_image/2"),
        attributes={
            "category": "SHIRTS",
            "subcategory": "BLOUSES",
            "gender": "Women",
            "brand": "Façonnable",
            "composition": "100% soie.",
            "department": "CLOTHING",
            "season": "SS2016",
            "msrpUSD": 99.95,
        },
    )
    assert (second.id, second.images) == ("87", ("input_image/3",))
    assert (third.id, third.images) == ("97", ("input_image/4", "input_image/5"))
    assert catalogue.report.summary() == (
        "fashiongen_256_256_train.h5: 6 rows, 3 products, 6 pictures, no bad rows"
    )


def test_pictures_come_out_as_they_went_in(path: Path) -> None:
    with read_fashiongen(path) as catalogue:
        names = [name for product in catalogue.products for name in product.images]
        for name, expected in zip(names, pixels(6), strict=True):
            data = catalogue.pictures.read(name)
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), expected)
            np.testing.assert_array_equal(decode_image(data, SIDE), expected)
            assert catalogue.pictures.size(name) == SIDE * SIDE * 3


def test_many_threads_read(tmp_path: Path) -> None:
    rows = [view(str(n), 1) for n in range(60)]
    path = write(tmp_path / "f.h5", rows, chunks=(7, SIDE, SIDE, 3), compression="gzip")
    expected = pixels(60)
    with FashionGenPictures(path) as pictures, ThreadPoolExecutor(8) as threads:
        order = random.Random(0).sample(range(60), 60) * 4
        read = threads.map(lambda row: pictures.read(f"input_image/{row}"), order)
        for row, data in zip(order, read, strict=True):
            np.testing.assert_array_equal(decode_image(data, SIDE), expected[row])


def test_ids_may_be_numbers(tmp_path: Path, path: Path) -> None:
    other = write(tmp_path / "numbers.h5", GOOD, numbers_for_ids=True)
    with read_fashiongen(path) as texts, read_fashiongen(other) as numbers:
        assert list(numbers.products) == list(texts.products)
        assert numbers.fingerprint == texts.fingerprint


def test_rows_of_a_product_need_not_stand_together(tmp_path: Path) -> None:
    rows = [view("1", 1), view("2", 1), view("1", 2)]
    with read_fashiongen(write(tmp_path / "f.h5", rows)) as catalogue:
        images = {product.id: product.images for product in catalogue.products}
    assert images == {"1": ("input_image/0", "input_image/2"), "2": ("input_image/1",)}


def test_more_rows_than_a_block(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    count = 20_000
    with h5py.File(path, "w") as file:
        file["input_image"] = np.zeros((count, 1, 1, 3), dtype=np.uint8)
        file["input_productID"] = np.array([[b"%d" % (n // 2)] for n in range(count)])
        file["input_name"] = np.array([[b"Coat %d" % (n // 2)] for n in range(count)])
    with read_fashiongen(path, text="{name}") as catalogue:
        assert [product.text for product in catalogue.products] == [
            f"Coat {n}" for n in range(count // 2)
        ]
        assert catalogue.products[-1].images == ("input_image/19998", "input_image/19999")


def test_the_rest_of_the_package_takes_it(path: Path) -> None:
    with read_fashiongen(path) as catalogue:
        assert groups_of(catalogue, "subcategory").tolist() == [0, 1, 1]
        with pytest.raises(TrainingError, match="3 products with 3 different texts are too few"):
            hold_out(catalogue, 0.5)
        assert len(only(catalogue, [catalogue.products[1].id])) == 1


def test_template(path: Path) -> None:
    template = "{concat_description} ({brand}, {productID}, {msrpUSD})"
    with read_fashiongen(path, text=template) as catalogue:
        product = catalogue.products[0]
    assert product.text == "Chemise 86 à manches longues (Façonnable, 86, 99.95)"
    assert product.title == "Chemise 86"
    assert "concat_description" not in product.attributes


def test_empty_cells_are_no_attributes(tmp_path: Path) -> None:
    rows = [view("1", 1, brand="", composition="  ", msrpUSD=float("nan"), description="")]
    with read_fashiongen(write(tmp_path / "f.h5", rows)) as catalogue:
        (product,) = catalogue.products
    assert product.text == "Chemise 1"
    assert not {"brand", "composition", "msrpUSD"} & product.attributes.keys()


def test_fingerprint_follows_the_content(tmp_path: Path, path: Path) -> None:
    changed = write(tmp_path / "changed.h5", [{**row, "season": "FW2016"} for row in GOOD])
    again = write(tmp_path / "again.h5", GOOD, compression="gzip")
    other_picture = write(tmp_path / "picture.h5", GOOD)
    with h5py.File(other_picture, "r+") as file:
        file["input_image"][2] = 255 - file["input_image"][2]
    prints = []
    for each in (path, again, changed, other_picture):
        with read_fashiongen(each) as catalogue:
            prints.append(catalogue.fingerprint)
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


BAD: Rows = [
    view("1", 1),
    view("2", 1, productID=" "),
    view("1", 2, description="Autre chose."),
    view("3", 1, name="", description=""),
    view("4", 1, name="Che\0mise"),
    view("1", 3),
]


def test_bad_rows_are_left_out_and_reported(tmp_path: Path) -> None:
    path, report = write(tmp_path / "f.h5", BAD), tmp_path / "bad.jsonl"
    with read_fashiongen(path, max_bad=0.7, report_path=report) as catalogue:
        assert [p.images for p in catalogue.products] == [("input_image/0", "input_image/5")]
        found = [(bad.line, bad.id, bad.code) for bad in catalogue.report.bad]
    assert found == [
        (2, "", "missing_id"),
        (3, "1", "repeated_id"),
        (4, "3", "empty_text"),
        (5, "4", "wrong_encoding"),
    ]
    lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    assert [BadRow(**line) for line in lines] == list(catalogue.report.bad)


def test_too_many_bad_rows(tmp_path: Path) -> None:
    path, report = write(tmp_path / "f.h5", BAD), tmp_path / "bad.jsonl"
    with pytest.raises(CatalogueError, match=r"66\.7% of the rows .* more than the 5\.0% allowed"):
        read_fashiongen(path, report_path=report)
    assert len(report.read_text(encoding="utf-8").splitlines()) == 4
    with pytest.raises(CatalogueError, match=r"max_bad is 5\.0"):
        read_fashiongen(path, max_bad=5.0)


def changed(path: Path, name: str, value: Any) -> Path:
    with h5py.File(path, "a") as file:
        del file[name]
        if value is not None:
            file[name] = value
    return path


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_image", None, "there is no dataset 'input_image'"),
        ("input_productID", None, "there is no dataset 'input_productID'"),
        ("input_description", None, r"names \{description\}, .*has no input_description; its col"),
        ("input_image", np.zeros((6, 8, 8, 3), np.float32), r"float32 \(6, 8, 8, 3\), not uint8"),
        ("input_image", np.zeros((6, 8, 8), np.uint8), r"uint8 \(6, 8, 8\), not uint8 \(N"),
        ("input_image", np.zeros((0, 8, 8, 3), np.uint8), "has no rows"),
        ("input_image", np.zeros((5, 8, 8, 3), np.uint8), r"shape \(6, 1\), not \(5, 1\)"),
        ("input_brand", np.array([[b"a", b"b"]] * 6), r"input_brand is of shape \(6, 2\)"),
        ("input_brand", np.array([["a"]] * 6, dtype=object), "not of byte strings or numbers"),
    ],
)
def test_another_layout_is_refused(path: Path, name: str, value: Any, message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        read_fashiongen(changed(path, name, value))


def test_a_group_is_no_dataset(path: Path) -> None:
    changed(path, "input_image", None)
    with h5py.File(path, "a") as file:
        file.create_group("input_image")
    with pytest.raises(CatalogueError, match="there is no dataset 'input_image'"):
        read_fashiongen(path)


def test_files_that_are_no_hdf5(tmp_path: Path, path: Path) -> None:
    with pytest.raises(CatalogueError, match="there is no file"):
        read_fashiongen(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("this is no HDF5")
    with pytest.raises(CatalogueError, match="cannot be opened as HDF5"):
        read_fashiongen(tmp_path / "text.h5")
    (tmp_path / "cut.h5").write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CatalogueError, match="cannot be opened as HDF5"):
        read_fashiongen(tmp_path / "cut.h5")


def test_damaged_pixels_are_an_error_of_that_picture(tmp_path: Path) -> None:
    path = write(tmp_path / "f.h5", GOOD, chunks=(1, SIDE, SIDE, 3), fletcher32=True)
    data = bytearray(path.read_bytes())
    at = data.index(pixels(6)[4].tobytes())
    data[at] ^= 255
    path.write_bytes(data)
    with read_fashiongen(path) as catalogue:
        with pytest.raises(CatalogueError, match=r"'input_image/4' .* damaged") as caught:
            catalogue.pictures.read("input_image/4")
        assert caught.value.code == "unreadable_picture"
        np.testing.assert_array_equal(
            decode_image(catalogue.pictures.read("input_image/3"), SIDE), pixels(6)[3]
        )


@pytest.mark.parametrize(
    "name", ["6", "input_image/6", "input_image/-1", "input_image/01", "input_image/²", "0"]
)
def test_names_that_are_no_picture(path: Path, name: str) -> None:
    with FashionGenPictures(path) as pictures:
        assert name not in pictures
        assert "input_image/5" in pictures
        with pytest.raises(CatalogueError, match=r"input_image/0 to input_image/5") as caught:
            pictures.read(name)
        assert caught.value.code == "missing_picture"
        with pytest.raises(CatalogueError):
            pictures.size(name)


def test_reading_after_closing(path: Path) -> None:
    catalogue = read_fashiongen(path)
    catalogue.close()
    catalogue.close()
    with pytest.raises(CatalogueError, match="was closed"):
        catalogue.pictures.read("input_image/0")


def test_without_h5py(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(CatalogueError, match="h5py, which is not installed: pip install h5py"):
        read_fashiongen(path)


def test_importing_does_not_load_h5py() -> None:
    code = "import sys, model.fashiongen; sys.exit('h5py' in sys.modules or 'torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
