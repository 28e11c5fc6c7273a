"""States on the device, which is the memory of this machine: the same code, another name."""

from __future__ import annotations

import gc
import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.build import build
from index.live_index import LiveIndex
from index.snapshot import Snapshot
from model.bundle import Bundle
from model.catalogue import read_catalogue
from model.engine import Engine
from model.resident import NOTHING, Residence, Tables, row_bytes
from model.tables import TableRows, rows_of
from service.live_search import LiveSearch, open_live_search
from service.products import ProductFields
from service.records import SearchLimits, SearchResult
from service.search import Searcher
from service.settings import Settings
from service.writes import Writer


@pytest.fixture(scope="module")
def engine(row_bundle: Bundle) -> Engine:
    return Engine(row_bundle, threads=1)


@pytest.fixture(scope="module")
def snapshot_root(
    feed: Path, demo_catalogue: Path, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("resident") / "snapshots"
    with read_catalogue(feed, images=demo_catalogue / "images.tar") as catalogue:
        build(catalogue, engine, root, progress=False)
    return root


@pytest.fixture(scope="module")
def snapshot(snapshot_root: Path) -> Snapshot:
    return Snapshot.open(snapshot_root)


@pytest.fixture
def root(snapshot_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(snapshot_root, tmp_path / "snapshots"))


def image_bytes(snapshot: Snapshot) -> int:
    sizes = snapshot.manifest.sizes
    return row_bytes(sizes.patches, sizes.hidden_size)


def text_bytes(snapshot: Snapshot) -> int:
    return row_bytes(int(snapshot.text_lengths.max()), snapshot.manifest.sizes.hidden_size)


def whole(snapshot: Snapshot) -> int:
    return snapshot.pictures * image_bytes(snapshot) + len(snapshot) * text_bytes(snapshot)


def assert_same(found: SearchResult, wanted: SearchResult) -> None:
    assert found.degraded is wanted.degraded is None
    assert found.pairs == wanted.pairs > 0
    assert [hit.item.id for hit in found.hits] == [hit.item.id for hit in wanted.hits]
    np.testing.assert_allclose(
        [hit.score for hit in found.hits], [hit.score for hit in wanted.hits], atol=1e-4
    )


def test_pictures_come_first_and_then_texts(snapshot: Snapshot) -> None:
    image, text = image_bytes(snapshot), text_bytes(snapshot)
    pictures = snapshot.pictures
    for budget, images, texts in (
        (min(image, text) - 1, 0, 0),
        (10 * image + text - 1, 10, 0),
        (pictures * image + text - 1, pictures, 0),
        (pictures * image + 7 * text, pictures, 7),
        (whole(snapshot) + 1000, pictures, len(snapshot)),
    ):
        residence = Residence(budget, "cpu")
        tables = residence.fill(snapshot)
        assert len(tables.images or ()) == images
        assert len(tables.texts or ()) == texts
        assert residence.used == images * image + texts * text <= budget
        assert residence.tables(snapshot) is tables
    assert tables.texts is not None
    np.testing.assert_array_equal(tables.texts.lengths, snapshot.text_lengths)


def test_a_table_has_no_more_values_than_cuda_can_count(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = snapshot.manifest.sizes
    longest = int(snapshot.text_lengths.max())
    monkeypatch.setattr("model.resident.MOST_VALUES", 5 * sizes.patches * sizes.hidden_size + 1)
    tables = Residence(1 << 40, "cpu").fill(snapshot)
    assert len(tables.images or ()) == 5
    assert len(tables.texts or ()) == 5 * sizes.patches // longest


@pytest.mark.parametrize("share", [0.0, 0.2, 0.7, 1.0])
def test_searches_find_the_same_wherever_the_states_are(
    engine: Engine, snapshot: Snapshot, share: float
) -> None:
    tables = Residence(int(share * whole(snapshot)), "cpu").fill(snapshot)
    plain, searcher = Searcher(engine, snapshot), Searcher(engine, snapshot, tables=tables)
    picture = snapshot.image(5)[0]
    assert_same(searcher.search_text("red dress"), plain.search_text("red dress"))
    assert_same(searcher.search_image(picture), plain.search_image(picture))
    assert_same(searcher.search_item(snapshot.ids[7]), plain.search_item(snapshot.ids[7]))


def test_products_that_are_written_are_read_from_the_host(engine: Engine, root: Path) -> None:
    """The rows of the snapshot stay where they are on the device."""
    with LiveIndex.open(root, engine=engine) as index:
        residence = Residence(1 << 30, "cpu")
        live = LiveSearch(engine, index, SearchLimits(), residence)
        before = live.searcher().tables
        assert before.images is not None
        picture = index.latest.image(0)[0]
        fields = [
            ProductFields(f"new-{n}", f"hat {n}", None, f"hat {n}.", {}, (picture,)) for n in (1, 2)
        ]
        Writer(engine, index).batch(fields)
        searcher = live.searcher()
        assert searcher.tables is before
        latest = index.latest
        rows = np.array([latest.image_rows(latest.row_of("new-1"))[0], 3], dtype=np.int64)
        mixed = rows_of(before.images, rows, latest.image_states)
        assert isinstance(mixed, TableRows)
        assert mixed.rows.tolist() == [-1, 3]
        plain = Searcher(engine, latest)
        everything = len(latest)
        for found, wanted in (
            (searcher.search_text("hat", 5, everything), plain.search_text("hat", 5, everything)),
            (
                searcher.search_item("new-2", 5, everything),
                plain.search_item("new-2", 5, everything),
            ),
        ):
            assert_same(found, wanted)


def test_a_new_snapshot_has_to_wait_for_room(snapshot_root: Path) -> None:
    old, new = Snapshot.open(snapshot_root), Snapshot.open(snapshot_root)
    residence = Residence(int(1.5 * whole(old)), "cpu")
    of_request = residence.fill(old)
    assert residence.tables(new) is NOTHING
    assert residence.fill(new) is NOTHING
    assert residence.used == whole(old)
    del old
    gc.collect()
    assert residence.used == whole(new), "a request still reads it"
    assert residence.tables(new) is NOTHING
    assert of_request.images is not None
    del of_request
    gc.collect()
    assert residence.used == 0, "nothing is held here"
    deadline = time.monotonic() + 60
    while residence.tables(new) is NOTHING:  # the first of them starts it
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert residence.used == whole(new)
    del new
    gc.collect()
    assert residence.used == 0


def test_both_have_room(snapshot_root: Path) -> None:
    old, new = Snapshot.open(snapshot_root), Snapshot.open(snapshot_root)
    residence = Residence(2 * whole(old), "cpu")
    assert residence.fill(old).images is not residence.fill(new).images
    assert residence.used == 2 * whole(old)


def test_two_snapshots_at_once_keep_the_budget(
    snapshot_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the tables of one are made nobody begins others, nor a thread that would wait."""
    old, new = Snapshot.open(snapshot_root), Snapshot.open(snapshot_root)
    residence = Residence(int(1.5 * whole(old)), "cpu")
    begun, go = threading.Event(), threading.Event()
    made = residence._made

    def slowly(*arguments: Any) -> Tables:
        begun.set()
        go.wait()
        return made(*arguments)

    monkeypatch.setattr(residence, "_made", slowly)
    threads = [threading.Thread(target=residence.fill, args=(each,)) for each in (old, new)]
    threads[0].start()
    begun.wait()
    threads[1].start()
    assert [residence.tables(each) for each in (old, new)] == [NOTHING, NOTHING]
    assert not any(thread.name == "resident-states" for thread in threading.enumerate())
    threads[1].join(timeout=0.1)
    go.set()
    for thread in threads:
        thread.join()
    assert residence.used == whole(old)
    assert residence.tables(old) is not NOTHING


def test_a_device_without_room_leaves_them_on_the_host(
    snapshot: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    """There is none at all: what ONNX Runtime says then is its own."""
    residence = Residence(whole(snapshot), "no such device")
    with caplog.at_level(logging.WARNING):
        assert residence.fill(snapshot) == NOTHING
        assert residence.tables(snapshot) == NOTHING
    (record,) = caplog.records
    assert f"snapshot {snapshot.name} stay on the host" in record.getMessage()
    assert residence.used == 0


def test_without_a_gpu_the_setting_is_said_to_be_without_effect(
    snapshot_root: Path, row_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(bundle=row_bundle.path, snapshots=snapshot_root, gpu_states=1 << 30)
    with caplog.at_level(logging.WARNING):
        live = open_live_search(settings)
    assert live.residence is None
    assert live.searcher().tables == NOTHING
    (record,) = caplog.records
    assert "FASHIONBERT_GPU_STATES is without effect" in record.getMessage()
