import csv
import io
import os
import resource
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.demo import write_demo_catalogue
from model.demo.attributes import Garment
from model.demo.write import ATTRIBUTE_COLUMNS, COLUMNS, FILES, demo_products, render_views
from model.errors import CatalogueError

SIZE = (72, 96)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "catalogue"
    write_demo_catalogue(folder, products=40, held_out=12, seed=3, size=SIZE)
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_counts_and_columns(catalogue: Path) -> None:
    assert sorted(entry.name for entry in catalogue.iterdir()) == sorted(FILES)
    train, val = read(catalogue / "train.csv"), read(catalogue / "val.csv")
    assert (len(train), len(val)) == (40, 12)
    assert tuple(train[0]) == COLUMNS
    assert tuple(val[0]) == COLUMNS
    assert len({row["id"] for row in train + val}) == 52
    assert all(5 < float(row["price"]) < 300 for row in train + val)


def test_the_tar_holds_every_named_picture_and_no_other(catalogue: Path) -> None:
    rows = read(catalogue / "train.csv") + read(catalogue / "val.csv")
    names = [name for row in rows for name in row["image"].split("|")]
    with tarfile.open(catalogue / "images.tar") as archive:
        assert archive.getnames() == names
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            with Image.open(io.BytesIO(file.read())) as picture:
                assert picture.format == "JPEG"
                assert picture.size == SIZE
                picture.load()


def test_about_one_product_in_eight_has_two_views() -> None:
    views = [len(product.images) for product in demo_products(2000, seed=0)]
    assert set(views) == {1, 2}
    assert 1 / 10 < views.count(2) / len(views) < 1 / 6.5


def test_two_views_are_two_pictures() -> None:
    product = next(p for p in demo_products(100, seed=0) if len(p.images) == 2)
    first, second = render_views(product, 0, SIZE)
    assert first != second


def test_no_two_products_look_the_same() -> None:
    garments = [product.garment for product in demo_products(2800, seed=0)]
    assert len(set(garments)) == len(garments)


def test_held_out_combinations_are_not_in_train(catalogue: Path) -> None:
    train, val = (
        {tuple(row[name] for name in ATTRIBUTE_COLUMNS) for row in read(catalogue / name_)}
        for name_ in ("train.csv", "val.csv")
    )
    assert len(train) == 40
    assert len(val) == 12
    assert not train & val


def test_columns_agree_with_the_garment(catalogue: Path) -> None:
    rows = read(catalogue / "train.csv") + read(catalogue / "val.csv")
    for row, product in zip(rows, demo_products(52, seed=3), strict=True):
        assert Garment(**{name: row[name] for name in ATTRIBUTE_COLUMNS}) == product.garment
        assert row["title"] == product.title
        assert row["description"] == product.description


def test_same_seed_same_bytes(catalogue: Path, tmp_path: Path) -> None:
    write_demo_catalogue(tmp_path / "again", products=40, held_out=12, seed=3, size=SIZE)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (catalogue / name).read_bytes()


def test_held_out_alone_are_the_same(catalogue: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    settings: dict[str, Any] = {"products": 40, "held_out": 12, "seed": 3, "size": SIZE}
    write_demo_catalogue(folder, **settings, held_out_only=True)
    assert sorted(os.listdir(folder)) == ["images.tar", "val.csv"]
    assert (folder / "val.csv").read_bytes() == (catalogue / "val.csv").read_bytes()
    with (
        tarfile.open(folder / "images.tar") as some,
        tarfile.open(catalogue / "images.tar") as whole,
    ):
        names = [name for row in read(folder / "val.csv") for name in row["image"].split("|")]
        assert some.getnames() == names
        for name in names:
            one, other = some.extractfile(name), whole.extractfile(name)
            assert one is not None
            assert other is not None
            assert one.read() == other.read()
    # The whole may come in its place, and the other way round.
    write_demo_catalogue(folder, **settings)
    assert sorted(os.listdir(folder)) == sorted(FILES)
    write_demo_catalogue(folder, **settings, held_out_only=True)
    assert sorted(os.listdir(folder)) == ["images.tar", "val.csv"]


def test_same_bytes_from_several_processes(catalogue: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    write_demo_catalogue(folder, products=40, held_out=12, seed=3, size=SIZE, processes=2)
    for name in FILES:
        assert (folder / name).read_bytes() == (catalogue / name).read_bytes()


def test_pictures_do_not_depend_on_the_threads(catalogue: Path) -> None:
    products = demo_products(52, seed=3)
    one_by_one = [render_views(product, 3, SIZE) for product in products]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda product: render_views(product, 3, SIZE), products))
    assert together == one_by_one
    with tarfile.open(catalogue / "images.tar") as archive:
        for views, product in zip(one_by_one, products, strict=True):
            for name, data in zip(product.images, views, strict=True):
                file = archive.extractfile(name)
                assert file is not None
                assert file.read() == data


def test_another_seed_is_another_catalogue() -> None:
    first, second = (
        {product.garment for product in demo_products(200, seed=seed)} for seed in (0, 1)
    )
    assert len(first & second) < 10


def test_a_demo_catalogue_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()  # an empty folder will do, too
    write_demo_catalogue(folder, products=3, held_out=1, seed=0, size=SIZE)
    write_demo_catalogue(folder, products=4, held_out=2, seed=1, size=SIZE)
    assert len(read(folder / "train.csv")) == 4
    assert len(read(folder / "val.csv")) == 2
    assert sorted(os.listdir(folder)) == sorted(FILES)


@pytest.mark.parametrize("name", ["notes.txt", "train.csv", "images.tar"])
def test_another_folder_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine\n")
    with pytest.raises(CatalogueError, match=name):
        write_demo_catalogue(tmp_path, products=2, held_out=1, size=SIZE)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine\n"


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CatalogueError, match="is a file"):
        write_demo_catalogue(tmp_path / "file", products=2, held_out=1, size=SIZE)


@pytest.mark.parametrize(
    "arguments",
    [{"products": 0}, {"held_out": -1}, {"seed": -1}, {"size": (8, 8)}],
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(CatalogueError, match="needs products"):
        write_demo_catalogue(tmp_path / "demo", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "demo").exists()


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow past 20,000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full_disk")
def test_nothing_half_written_stays_when_the_disk_is_full(tmp_path: Path) -> None:
    write_demo_catalogue(tmp_path / "old", products=2, held_out=1, size=(32, 32))
    before = {entry.name: entry.read_bytes() for entry in (tmp_path / "old").iterdir()}
    for name in ("old", "new"):
        with pytest.raises(OSError, match="File too large"):
            write_demo_catalogue(tmp_path / name, products=30, held_out=1, size=SIZE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]
    assert {entry.name: entry.read_bytes() for entry in (tmp_path / "old").iterdir()} == before


def test_progress_is_shown_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_demo_catalogue(tmp_path / "demo", products=2, held_out=1, size=SIZE, progress=True)
    assert "Drawing garments" in capsys.readouterr().out
