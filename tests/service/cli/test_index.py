from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from index.delta_records import Delete
from index.encoding import Draft, encode_drafts
from index.images import prepare_image
from index.items import Item
from index.live_index import LiveIndex
from index.snapshot import Snapshot
from model.bundle import Bundle
from model.engine import Engine
from model.product import Attribute
from service.products import ProductFields, WriteLimits, draft

Shell = Callable[..., Any]


@pytest.fixture
def small(demo_catalogue: Path, tmp_path: Path) -> Path:
    """A feed of ten products with columns of other names; the last has no picture."""
    with (demo_catalogue / "train.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:10]
    path = tmp_path / "small.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "photo", "name", "price"])
        for row in rows[:9]:
            writer.writerow([row["id"], row["image"], row["title"], row["price"]])
        writer.writerow([rows[9]["id"], "images/none.jpg", rows[9]["title"], "1"])
    return path


MAPPING = ("--id-column", "sku", "--image-column", "photo", "--title-column", "name")


def test_build_info_verify(
    small: Path, shell: Shell, bundle: Bundle, demo_catalogue: Path, tmp_path: Path
) -> None:
    root, report = tmp_path / "snapshots", tmp_path / "bad.csv"
    pictures = demo_catalogue / "images.tar"
    command = ["index", "build", small, "--bundle", bundle.path, "--out", root]
    command += ["--images", pictures, "--text", "{name}", *MAPPING]

    too_bad = shell(*command, "--report", report)
    assert too_bad.code == 2
    assert "10.0% of the rows" in too_bad.err
    assert "missing_picture" in report.read_text()
    assert not root.exists()

    built = shell(*command, "--max-bad", "0.1")
    assert built.code == 0, built.err
    assert "snapshot 00000001: 9 products" in built.err
    snapshot = Snapshot.open(root)
    assert snapshot.item(0).title == snapshot.item(0).text
    assert set(snapshot.item(0).attributes) == {"price"}

    told = json.loads(shell("index", "info", "--snapshots", root, "--json").out)
    assert (told["name"], told["products"], told["text_template"]) == ("00000001", 9, "{title}")
    assert "00000001" in shell("index", "info", "--snapshots", root).out
    whole = shell("index", "verify", "--snapshots", root)
    assert (whole.code, whole.out) == (
        0,
        "snapshot 00000001 is whole: 9 products\n"
        "the log is whole: 0 writes, 0 on top of the snapshot\n",
    )


@pytest.mark.parametrize("place", ["x" * 300, "file/snapshots"])
def test_a_place_for_snapshots_that_cannot_be_one(
    shell: Shell, bundle: Bundle, demo_catalogue: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("")
    feed, root = demo_catalogue / "val.csv", tmp_path / place
    refused = shell("index", "build", feed, "--bundle", bundle.path, "--out", root)
    assert refused.code == 2
    assert "the snapshot cannot be written into" in refused.err


def test_several_processes_build_the_same(
    small: Path, shell: Shell, bundle: Bundle, demo_catalogue: Path, tmp_path: Path
) -> None:
    command = ["index", "build", small, "--bundle", bundle.path, "--max-bad", "0.1", *MAPPING]
    command += ["--images", demo_catalogue / "images.tar", "--text", "{name}"]
    found = []
    for processes in (1, 2):
        root = tmp_path / str(processes)
        built = shell(*command, "--out", root, "--processes", processes)
        assert built.code == 0, built.err
        snapshot = Snapshot.open(root)
        found.append({path.name: path.read_bytes() for path in root.glob("*/*.npy")})
        assert len(snapshot) == 9
    assert found[0] == found[1] != {}
    refused = shell(*command, "--out", tmp_path / "none", "--processes", 0)
    assert refused.code == 2
    assert "--processes" in refused.err


def test_build_if_changed(
    small: Path,
    shell: Shell,
    bundle: Bundle,
    other_bundle: Bundle,
    demo_catalogue: Path,
    tmp_path: Path,
) -> None:
    root = tmp_path / "snapshots"
    told: list[str] = []

    def build(made_by: Bundle, *more: str) -> str:
        command = ["index", "build", small, "--bundle", made_by.path, "--out", root]
        command += ["--images", demo_catalogue / "images.tar", "--max-bad", "0.1", *MAPPING]
        ran = shell(*command, "--text", "{name}", *more)
        assert ran.code == 0, ran.err
        told.append(ran.err)
        return (root / "CURRENT").read_text().strip()

    assert build(bundle, "--if-changed") == "00000001"
    made = (root / "00000001" / "manifest.json").stat().st_mtime_ns
    assert build(bundle, "--if-changed") == "00000001"
    assert (root / "00000001" / "manifest.json").stat().st_mtime_ns == made
    assert build(bundle) == "00000002"

    damaged = root / "00000002" / "text_states.npy"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    assert build(bundle, "--if-changed") == "00000003"

    small.write_text(small.read_text().replace(",1\n", ",2\n"))  # the row without a picture
    assert build(bundle, "--if-changed") == "00000003"
    lines = small.read_text().splitlines()
    small.write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    assert build(bundle, "--if-changed", "--max-bad", "0.2") == "00000004"
    other = ["--if-changed", "--max-bad", "0.2", "--recall", "hnsw"]
    assert build(bundle, *other) == "00000005"
    assert "now current" in told[-1]
    assert build(bundle, *other) == "00000005"
    assert "unchanged, still current" in told[-1]
    assert shell("index", "rollback", "--snapshots", root).code == 0
    assert build(bundle, *other) == "00000004"
    assert "snapshot 00000004" in told[-1]
    assert "unchanged, still current" in told[-1]
    assert "snapshot 00000005, which is of this feed, was rolled back" in told[-1]
    assert build(other_bundle, "--if-changed", "--max-bad", "0.2") == "00000006"
    for folder in root.glob("0*"):
        shutil.rmtree(folder)  # but not what names the current one
    assert build(bundle, *other) == "00000007"
    assert "now current" in told[-1]
    assert not any("warning: texts are" in each for each in told)


def test_a_build_of_other_texts_or_types_is_told(
    bundle: Bundle, demo_catalogue: Path, shell: Shell, tmp_path: Path
) -> None:
    """An option that was forgotten changes what is found."""
    head, *rows = (demo_catalogue / "val.csv").read_text().splitlines()[:5]
    feed = tmp_path / "feed.csv"
    feed.write_text("\n".join([f"{head},sizes", *[f"{row},S|M" for row in rows]]))
    command = ["index", "build", feed, "--bundle", bundle.path, "--out", tmp_path / "s"]
    command += ["--images", demo_catalogue / "images.tar"]
    options = ["--text", "{title}. {colour}", "--list-column", "sizes"]
    for more in (options, [*options, "--strict"]):
        ran = shell(*command, *more)
        assert ran.code == 0, ran.err
        assert "warning: texts" not in ran.err
        assert "warning: sizes" not in ran.err
    ran = shell(*command)
    assert ran.code == 0, ran.err
    assert (
        "warning: texts are made of title and description now (--text), those of 00000002 of "
        "'{title}. {colour}'"
    ) in ran.err
    assert "warning: sizes is string now (--list-column), and was strings in 00000002" in ran.err
    feed.write_text("\n".join([head, rows[0]]))
    ran = shell(*command, "--strict")
    assert ran.code == 2, ran.err
    assert "differs from snapshot 00000003 as the warnings say, so nothing was built" in ran.err
    assert not (tmp_path / "s" / "00000004").exists()
    ran = shell(*command)
    assert ran.code == 0, ran.err
    assert "warning: there are 1 products now, and were 4 in 00000003" in ran.err
    assert "warning: sizes is in no row of the feed now, and was string in 00000003" in ran.err


def test_what_was_written_to_the_service_is_not_missed_in_the_feed(
    bundle: Bundle,
    demo_catalogue: Path,
    engine: Engine,
    photo: bytes,
    shell: Shell,
    tmp_path: Path,
) -> None:
    """A compaction brings it into the snapshot, and it stays on top of each later build."""
    head, *rows = (demo_catalogue / "val.csv").read_text().splitlines()[:5]
    feed, root = tmp_path / "feed.csv", tmp_path / "s"
    feed.write_text("\n".join([f"{head},season", *[f"{row},spring" for row in rows]]))
    command = ["index", "build", feed, "--bundle", bundle.path, "--out", root]
    command += ["--images", demo_catalogue / "images.tar"]
    assert shell(*command).code == 0
    prepared = (prepare_image(photo, engine.image_size),)
    attributes: dict[str, Attribute] = {"sale": True, "season": "autumn"}
    drafts = [
        Draft(Item(f"new-{n}", "A hat", "A hat", ("sha256:0",), attributes), prepared)
        for n in range(6)
    ]
    with LiveIndex.open(root, engine=engine) as live:
        live.exchange([*encode_drafts(engine, drafts), Delete(rows[0].split(",")[0])])
    assert shell("index", "compact", "--snapshots", root).code == 0
    ran = shell(*command, "--strict")
    assert ran.code == 0, ran.err
    assert "warning: " not in ran.err

    assert shell("index", "compact", "--snapshots", root).code == 0
    feed.write_text("\n".join([head, *rows]))  # others had a season
    ran = shell(*command, "--strict")
    assert ran.code == 2, ran.err
    assert [line for line in ran.err.splitlines() if line.startswith("warning: ")] == [
        "warning: season is in no row of the feed now, and was string in 00000004"
    ]
    ran = shell(*command, "--strict", "--supersede")
    assert ran.code == 2, ran.err
    assert "warning: there are 4 products now, and were 9 in 00000004" in ran.err
    assert "warning: sale is in no row of the feed now, and was bool in 00000004" in ran.err


def test_verify_finds_a_flipped_byte(shell: Shell, snapshot_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "snapshots"
    shutil.copytree(snapshot_root, root)
    file = root / "00000001" / "text_states.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    ran = shell("index", "verify", "--snapshots", root)
    assert (ran.code, ran.out) == (2, "")
    assert f"error: {file} is damaged" in ran.err


def test_nothing_says_where(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("FASHIONBERT_BUNDLE", "FASHIONBERT_SNAPSHOTS"):
        monkeypatch.delenv(name, raising=False)
    ran = shell("index", "info")
    assert (ran.code, ran.err) == (
        2,
        "error: nothing says where to find the snapshots: give --snapshots or set "
        "FASHIONBERT_SNAPSHOTS\n",
    )
    monkeypatch.setattr("model.pretrained.FOLDER", tmp_path)
    assert "--bundle or set FASHIONBERT_BUNDLE" in shell("search", "red").err


def test_a_feed_as_shops_have_them(
    small: Path, shell: Shell, bundle: Bundle, demo_catalogue: Path, tmp_path: Path
) -> None:
    with small.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:9]
    for n, row in enumerate(rows):
        row |= {"farbe": ("rot", "blau")[n % 2], "sizes": "S|M" if n % 3 else "L"}
        row |= {"sold_out": ("TRUE", "false")[n % 2], "price": f"{n}.5" if n != 4 else "n/a"}
        row["beschreibung"] = f"Nr. {n}"
    with small.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    options = ["--images", demo_catalogue / "images.tar", *MAPPING, "--list-column", "sizes"]
    options += ["--description-column", "beschreibung"]
    options += ["--text", "{name}. {beschreibung} {farbe}"]
    types = "attributes: price string, farbe string, sizes strings, sold_out bool"
    doubt = "warning: price is text because of line 6: 'n/a'"

    checked = shell("catalogue", "check", small, *options)
    assert checked.code == 0, checked.err
    assert types in checked.out
    assert doubt in checked.out

    root = tmp_path / "snapshots"
    built = shell("index", "build", small, *options, "--bundle", bundle.path, "--out", root)
    assert built.code == 0, built.err
    assert types in built.err
    assert doubt in built.err
    snapshot = Snapshot.open(root)
    assert snapshot.manifest.text_template == "{title}. {description} {farbe}"
    assert snapshot.item(1).attributes["sizes"] == ("S", "M")
    assert "sizes strings" in shell("index", "info", "--snapshots", root).out.replace("\n", " ")
    asked = ["--bundle", bundle.path, "--snapshots", root, "--filter"]
    filter = json.dumps({"sizes": "M", "not": {"sold_out": True}})
    found = shell("search", "dress", *asked, filter, "--json", "-k", "9", "--no-rerank")
    assert found.code == 0, found.err
    hits = [hit["item"]["id"] for hit in json.loads(found.out)["hits"]]
    assert sorted(hits) == sorted(rows[n]["sku"] for n in (1, 5, 7))

    # A write without a text, which the stored template makes.
    engine = Engine(bundle)
    with LiveIndex.open(root, engine=engine) as live:
        attributes: dict[str, Attribute | None] = {"farbe": "grün", "sizes": "M", "sold_out": False}
        fields = ProductFields(rows[0]["sku"], "Hut", "Warm", None, attributes, None)
        item = draft(fields, live.latest, engine.image_size, WriteLimits()).item
        assert item.text == "Hut. Warm grün"
        assert item.attributes["sizes"] == ("M",)
