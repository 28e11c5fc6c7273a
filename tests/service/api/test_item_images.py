"""The tag of a picture tells it from every other one that its address ever had, and from no copy of
it: through writes, builds and compactions.
"""

from __future__ import annotations

import csv
import io
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from index.build import build, last_written
from index.compact import compact, prune_snapshots
from index.snapshot_folder import make_current
from model.catalogue import read_catalogue
from model.engine import Engine

#: What files of a shop may be called: RFC 9110 has no room in a tag for any of them.
ODD_NAMES = {"hat": "платье.jpg", "coat": 'a"b.jpg', "scarf": "a\\\tb ✓.jpg"}
TAG = re.compile(r'"[!#-~]+"')


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (80, 96), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def build_shop(root: Path, feed: Path, colour: str, engine: Engine) -> None:
    """Build a catalogue of three products with odd file names and pictures of one colour."""
    feed.mkdir(exist_ok=True)
    with (feed / "feed.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "title"])
        for id, name in ODD_NAMES.items():
            writer.writerow([id, name, f"A {id}"])
            (feed / name).write_bytes(picture(colour))
    with read_catalogue(feed / "feed.csv", images=feed) as catalogue:
        build(catalogue, engine, root, progress=False, supersede=last_written(root))


@pytest.fixture
def shop(engine: Engine, tmp_path: Path) -> Path:
    """A folder with that catalogue, in red."""
    build_shop(tmp_path / "shop", tmp_path / "feed", "red", engine)
    return tmp_path / "shop"


def tag_of(client: httpx.Client, id: str, colour: str) -> str:
    """The tag of an item's picture, which is of this colour."""
    response = client.get(f"/v1/items/{id}/image")
    assert (response.status_code, response.content) == (200, picture(colour)), response.text
    tag = response.headers["etag"]
    assert TAG.fullmatch(tag), tag
    again = client.get(f"/v1/items/{id}/image", headers={"If-None-Match": tag})
    assert again.status_code == 304
    return str(tag)


def wait_for(client: httpx.Client, snapshot: str) -> None:
    deadline = time.monotonic() + 60
    while client.get("/v1/index").json()["snapshot"] != snapshot:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def put(client: httpx.Client, id: str, colour: str | None = None) -> None:
    """Write an item, with its pictures as they are if no colour is given."""
    files: dict[str, Any] = {"product": (None, f'{{"title": "A {id}"}}')}
    if colour is not None:
        files["image"] = ("1.jpg", picture(colour))
    response = client.put(f"/v1/items/{id}", files=files)
    assert response.status_code == 200, response.text


def test_a_picture_that_a_write_keeps_keeps_its_tag(shop: Path, serve: Any) -> None:
    with serve(snapshots=shop) as running:
        for id in ODD_NAMES:
            tag = tag_of(running.client, id, "red")
            put(running.client, id)
            assert tag_of(running.client, id, "red") == tag
            put(running.client, id, "blue")
            assert tag_of(running.client, id, "blue") != tag


def test_a_file_that_a_feed_replaces_has_another_tag(
    shop: Path, serve: Any, engine: Engine, tmp_path: Path
) -> None:
    with serve(snapshots=shop, watch=0.02) as running:
        put(running.client, "hat")
        tag = tag_of(running.client, "hat", "red")
        build_shop(shop, tmp_path / "feed", "blue", engine)
        wait_for(running.client, "00000002")
        put(running.client, "hat")
        assert tag_of(running.client, "hat", "blue") != tag


def test_a_snapshot_name_that_is_used_again_has_other_tags(shop: Path, serve: Any) -> None:
    with serve(snapshots=shop, watch=0.02) as running:
        put(running.client, "hat", "green")
        compact(shop)
        wait_for(running.client, "00000002")
        tag = tag_of(running.client, "hat", "green")
        make_current(shop, "00000001")
        wait_for(running.client, "00000001+1")
    prune_snapshots(shop, 1)
    assert not (shop / "00000002").exists()
    with serve(snapshots=shop, watch=0.02) as running:
        put(running.client, "hat", "blue")
        compact(shop)
        wait_for(running.client, "00000002")
        assert tag_of(running.client, "hat", "blue") != tag
