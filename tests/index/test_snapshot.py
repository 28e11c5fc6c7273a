from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.build import build
from index.info import describe
from index.manifest import FILES, describe_files, read_manifest, write_manifest
from index.snapshot import Snapshot
from index.states import ArrayWriter
from model.catalogue import read_catalogue
from model.engine import Engine
from model.errors import SnapshotError
from model.preprocess import decode_image
from model.product import Catalogue

EVERY_FILE = ("manifest.json", *FILES)


def test_products_are_those_of_the_catalogue(snapshot: Snapshot, catalogue: Catalogue) -> None:
    assert len(snapshot) == len(catalogue.products) == 96
    assert snapshot.ids == [product.id for product in catalogue.products]
    for row, product in enumerate(catalogue.products):
        item = snapshot.item(row)
        assert (item.id, item.title, item.text) == (product.id, product.title, product.text)
        assert item.images == product.images
        assert item.attributes == product.attributes
        assert snapshot.row_of(product.id) == row
    with pytest.raises(KeyError):
        snapshot.row_of("nobody")


def test_picture_rows_belong_to_their_products(snapshot: Snapshot, catalogue: Catalogue) -> None:
    views = [len(product.images) for product in catalogue.products]
    assert max(views) > 1
    assert [len(snapshot.image_rows(row)) for row in range(96)] == views
    for row in range(96):
        assert set(snapshot.product_of_image[list(snapshot.image_rows(row))].tolist()) == {row}


def test_states_and_embeddings_are_what_the_engine_makes(
    snapshot: Snapshot, catalogue: Catalogue, engine: Engine
) -> None:
    for row in (0, 17, 95):
        product = catalogue.products[row]
        text = engine.encode_texts([product.text])
        stored = snapshot.text_states([row])
        assert stored.values.shape == text.states.values.shape
        np.testing.assert_allclose(stored.dequantise(), text.states.dequantise(), atol=0.05)
        np.testing.assert_allclose(snapshot.text_embeddings([row]), text.embeddings, atol=1e-4)
        for image_row, name in zip(snapshot.image_rows(row), product.images, strict=True):
            pixels = decode_image(catalogue.pictures.read(name), engine.image_size)
            image = engine.encode_images(pixels[None])
            states = snapshot.image_states([image_row])
            np.testing.assert_allclose(states.dequantise(), image.states.dequantise(), atol=0.05)
            embedding = snapshot.image_embeddings([image_row])
            np.testing.assert_allclose(embedding, image.embeddings, atol=1e-4)


def test_a_stored_embedding_finds_its_own_row(snapshot: Snapshot) -> None:
    for row in (0, 50, 95):
        rows, similarities = snapshot.search_texts(snapshot.text_embeddings([row])[0], 3)
        assert rows[0] == row
        assert similarities[0] == pytest.approx(1, abs=1e-5)
        rows, _ = snapshot.search_images(snapshot.image_embeddings([row])[0], 3)
        assert rows[0] == row


def test_a_search_among_some_rows(snapshot: Snapshot) -> None:
    query = snapshot.image_embeddings([0])[0]
    among = np.arange(len(snapshot.product_of_image)) >= 90
    rows, _ = snapshot.search_images(query, 5, among=among)
    assert len(rows) == 5
    assert rows.min() >= 90
    products = np.isin(np.arange(96), (4, 8))
    assert sorted(snapshot.search_texts(query, 5, among=products)[0].tolist()) == [4, 8]


def test_pictures_come_with_their_media_type(snapshot: Snapshot) -> None:
    data, media_type = snapshot.image(len(snapshot.product_of_image) - 1)
    assert media_type == "image/jpeg"
    assert decode_image(data, 32).shape == (32, 32, 3)
    for row in (-1, len(snapshot.product_of_image)):
        with pytest.raises(IndexError, match="picture rows go from 0"):
            snapshot.image(row)


def test_a_good_snapshot_verifies(snapshot: Snapshot, root: Path) -> None:
    assert Snapshot.open(root, snapshot.name, verify=True).ids == snapshot.ids


def test_describe_can_be_written_as_json(snapshot: Snapshot, engine: Engine) -> None:
    told = json.loads(json.dumps(describe(snapshot)))
    assert told["name"] == "00000001"
    assert told["model_id"] == engine.model_id
    assert told["products"] == 96
    assert told["pictures"] == len(snapshot.product_of_image)
    assert told["recall"] == {"image": "exact", "text": "exact"}
    assert told["text_template"] == "{title}"
    assert told["bytes"] == sum((snapshot.path / name).stat().st_size for name in FILES)
    assert set(told["files"]) == set(FILES)
    assert told["attributes"]["price"] == "double"


def test_another_model_is_refused_and_both_are_named(root: Path, engine: Engine) -> None:
    assert Snapshot.open(root, model_id=engine.model_id).model_id == engine.model_id
    with pytest.raises(SnapshotError) as caught:
        Snapshot.open(root, model_id="fb-0123456789abcdef")
    assert "made by model " + engine.model_id in str(caught.value)
    assert "in use is model fb-0123456789abcdef" in str(caught.value)


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_flipped_byte_is_found(own_root: Path, name: str, where: float) -> None:
    path = own_root / "00000001" / name
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 0x01
    path.write_bytes(data)
    with pytest.raises(SnapshotError) as caught:
        Snapshot.open(own_root, verify=True)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_truncated_and_a_missing_file_are_found_on_opening(own_root: Path, name: str) -> None:
    path = own_root / "00000001" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(SnapshotError, match=name.replace(".", r"\.")):
        Snapshot.open(own_root)
    path.unlink()
    with pytest.raises(SnapshotError, match=name.replace(".", r"\.")):
        Snapshot.open(own_root)


def _change_manifest(folder: Path, **changes: object) -> None:
    write_manifest(folder, replace(read_manifest(folder), **changes))  # type: ignore[arg-type]


def test_a_manifest_of_another_format_or_other_files(own_root: Path) -> None:
    folder = own_root / "00000001"
    manifest = read_manifest(folder)
    _change_manifest(folder, format=2)
    with pytest.raises(SnapshotError, match="has format 2, this version reads 1"):
        Snapshot.open(own_root)
    less = {name: file for name, file in manifest.files.items() if name != "text.faiss"}
    write_manifest(folder, replace(manifest, files=less))
    with pytest.raises(SnapshotError, match="does not name the files of a snapshot"):
        Snapshot.open(own_root)
    write_manifest(folder, replace(manifest, recall={"image": "exact"}))
    with pytest.raises(SnapshotError, match="does not name the files"):
        Snapshot.open(own_root)


def test_a_manifest_nested_deep(own_root: Path) -> None:
    (own_root / "00000001" / "manifest.json").write_bytes(b"[" * 200_000 + b"]" * 200_000)
    with pytest.raises(SnapshotError, match=r"manifest\.json is damaged \(maximum recursion"):
        Snapshot.open(own_root)


def test_a_file_that_the_disk_does_not_give_back(
    own_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("index.manifest.sha256_of", fail)
    with pytest.raises(SnapshotError, match=r"items\.parquet cannot be read \(Input/output error"):
        Snapshot.open(own_root, verify=True)


def test_counts_that_do_not_agree(own_root: Path) -> None:
    folder = own_root / "00000001"
    sizes = read_manifest(folder).sizes
    _change_manifest(folder, sizes=replace(sizes, pictures=sizes.pictures + 1))
    with pytest.raises(SnapshotError, match="the manifest says"):
        Snapshot.open(own_root)


def test_a_folder_under_another_name(own_root: Path) -> None:
    (own_root / "00000001").rename(own_root / "00000009")
    with pytest.raises(SnapshotError, match="is snapshot 00000001 by its manifest"):
        Snapshot.open(own_root, "00000009")


def test_files_of_two_snapshots_put_together_are_found(
    own_root: Path, demo_catalogue: Path, engine: Engine, tmp_path: Path
) -> None:
    """Each file is whole and the checksums are right, but the rows are not each other's."""
    with read_catalogue(demo_catalogue / "train.csv") as catalogue:
        mirrored = replace(catalogue, products=catalogue.products[::-1])
        other = build(mirrored, engine, tmp_path / "other", progress=False)
    folder = own_root / "00000001"
    for name in ("image.faiss", "text.faiss"):
        own = (folder / name).read_bytes()
        shutil.copy(other.path / name, folder / name)
        _change_manifest(folder, files=describe_files(folder))
        with pytest.raises(SnapshotError, match=f"{name} does not find the snapshot's own"):
            Snapshot.open(own_root, verify=True)
        (folder / name).write_bytes(own)


@pytest.mark.parametrize(
    ("name", "values", "dtype", "message"),
    [
        ("image_products.npy", lambda a: a[::-1], "int32", "leaves a product without a picture"),
        ("image_products.npy", lambda a: a + 1, "int32", "leaves a product without a picture"),
        ("image_products.npy", lambda a: np.r_[a[:-1], a[-2]], "int32", "leaves a product without"),
        ("image_products.npy", lambda a: np.where(a == 5, 4, a), "int32", "leaves a product"),
        ("text_offsets.npy", lambda a: np.sort(a)[::-1], "int64", "does not divide its file"),
        ("image_offsets.npy", lambda a: a + 1, "int64", "does not divide its file"),
        ("image_offsets.npy", lambda a: a[[0, 0, *range(2, len(a))]], "int64", "does not divide"),
    ],
)
def test_rows_that_make_no_sense_are_found(
    own_root: Path, name: str, values: object, dtype: str, message: str
) -> None:
    folder = own_root / "00000001"
    array = np.load(folder / name, allow_pickle=False)
    writer = ArrayWriter(folder / name, dtype)
    writer.append(np.ascontiguousarray(values(array)))  # type: ignore[operator]
    writer.finish()
    _change_manifest(folder, files=describe_files(folder))
    with pytest.raises(SnapshotError, match=message):
        Snapshot.open(own_root, verify=True)
