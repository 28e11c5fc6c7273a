"""Builds of catalogues some of whose pictures are no good."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from index.build import build
from index.snapshot import Snapshot
from model.catalogue import read_catalogue
from model.engine import Engine
from model.errors import CatalogueError


def _shop(folder: Path, products: Sequence[tuple[str, Sequence[str]]]) -> Path:
    """A catalogue of noise: ids with picture names; a name that says "bad" is no picture."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["id,title,image,price"]
    for number, (id, names) in enumerate(products):
        lines.append(f"{id},product {id},{'|'.join(names)},{number}.5")
        for name in names:
            height, width = (600, 900) if "large" in name else (90, 60)
            noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[name.rpartition(".")[2]]
            Image.fromarray(noise).save(buffer, kind)
            data = buffer.getvalue()
            (folder / name).write_bytes(data[: len(data) // 2] if "bad" in name else data)
    (folder / "feed.csv").write_text("\n".join(lines) + "\n")
    return folder / "feed.csv"


def test_pictures_that_cannot_be_decoded_are_left_out_and_reported(
    engine: Engine, tmp_path: Path
) -> None:
    feed = _shop(
        tmp_path / "shop",
        [
            ("a", ["a1.jpg", "a2-bad.jpg", "a3.png"]),
            ("b", ["b-bad.png"]),
            ("c", ["c1-bad.jpg", "c2-large.png"]),
            ("d", ["d1.webp"]),
            ("e", ["e1-bad.webp", "e2-bad.jpg"]),
            ("f", ["f1.jpg"]),
        ],
    )
    report = tmp_path / "out" / "skipped.jsonl"
    with read_catalogue(feed, check_images=False) as catalogue:
        snapshot = build(
            catalogue,
            engine,
            tmp_path / "index",
            progress=False,
            max_bad=0.5,
            report_path=report,
            batch_size=2,
            chunk=2,
        )
    assert snapshot.ids == ["a", "c", "d", "f"]
    assert [snapshot.item(row).images for row in range(4)] == [
        ("a1.jpg", "a3.png"),
        ("c2-large.png",),
        ("d1.webp",),
        ("f1.jpg",),
    ]
    assert snapshot.product_of_image.tolist() == [0, 0, 1, 2, 3]
    assert snapshot.item(1).attributes == {"price": 2.5}
    assert (snapshot.manifest.skipped_pictures, snapshot.manifest.dropped_products) == (5, 2)
    Snapshot.open(snapshot.path.parent, verify=True)

    # Small pictures are served as they are, byte for byte.
    folder = tmp_path / "shop"
    assert snapshot.image(1) == ((folder / "a3.png").read_bytes(), "image/png")
    assert snapshot.image(3) == ((folder / "d1.webp").read_bytes(), "image/webp")
    data, media_type = snapshot.image(2)
    with Image.open(io.BytesIO(data)) as image:
        assert (media_type, image.size) == ("image/jpeg", (512, 341))

    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(line["line"], line["id"], line["image"]) for line in lines] == [
        (2, "a", "a2-bad.jpg"),
        (3, "b", "b-bad.png"),
        (4, "c", "c1-bad.jpg"),
        (6, "e", "e1-bad.webp"),
        (6, "e", "e2-bad.jpg"),
    ]
    assert "damaged or cut short" in lines[0]["detail"]


def test_a_picture_that_went_missing_is_left_out(engine: Engine, tmp_path: Path) -> None:
    feed = _shop(tmp_path / "shop", [("a", ["a1.jpg", "a2.jpg"]), ("b", ["b1.jpg"])])
    with read_catalogue(feed) as catalogue:
        (tmp_path / "shop" / "a2.jpg").unlink()
        snapshot = build(catalogue, engine, tmp_path / "index", progress=False, max_bad=0.4)
    assert [snapshot.item(row).views for row in range(2)] == [1, 1]


def test_too_many_bad_pictures_are_an_error_that_leaves_nothing(
    engine: Engine, tmp_path: Path
) -> None:
    products = [(f"{n}", [f"{n}{'-bad' if n in (3, 5) else ''}.jpg"]) for n in range(8)]
    feed = _shop(tmp_path / "shop", products)
    report = tmp_path / "skipped.jsonl"
    with (
        read_catalogue(feed, check_images=False) as catalogue,
        pytest.raises(CatalogueError) as caught,
    ):
        build(
            catalogue,
            engine,
            tmp_path / "index",
            progress=False,
            max_bad=0.2,
            chunk=2,
            report_path=report,
        )
    assert "2 of 8 pictures" in str(caught.value)
    assert "'5-bad.jpg' of product '5'" in str(caught.value)
    assert [entry.name for entry in (tmp_path / "index").iterdir()] == [".lock"]
    assert len(report.read_text().splitlines()) == 2


def test_a_report_that_cannot_be_written_loses_no_work(engine: Engine, tmp_path: Path) -> None:
    feed = _shop(tmp_path / "shop", [("a", ["a1.jpg"]), ("b", ["bad.jpg"])])
    (tmp_path / "reports").mkdir()
    with read_catalogue(feed, check_images=False) as catalogue:
        with pytest.raises(CatalogueError, match=r"reports cannot be written .*another place"):
            build(
                catalogue,
                engine,
                tmp_path / "index",
                progress=False,
                max_bad=0.5,
                report_path=tmp_path / "reports",
            )
        report = tmp_path / "reports" / "left-out.jsonl"
        snapshot = build(
            catalogue, engine, tmp_path / "index", progress=False, max_bad=0.5, report_path=report
        )
    assert len(snapshot) == 1
    assert len(report.read_text().splitlines()) == 1


def test_a_catalogue_without_one_good_picture(engine: Engine, tmp_path: Path) -> None:
    feed = _shop(tmp_path / "shop", [("a", ["bad1.jpg"]), ("b", ["bad2.jpg"])])
    with (
        read_catalogue(feed, check_images=False) as catalogue,
        pytest.raises(CatalogueError, match="there is nothing to search"),
    ):
        build(catalogue, engine, tmp_path / "index", progress=False, max_bad=1)
    assert [entry.name for entry in (tmp_path / "index").iterdir()] == [".lock"]
