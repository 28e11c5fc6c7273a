from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.build import build
from index.compact import compact
from index.delta_records import Put
from index.items import Item, write_items
from index.live_index import LiveIndex
from index.manifest import FILES
from index.recall import Embeddings, write_index
from index.recall_rules import Rule
from index.snapshot import Snapshot
from index.snapshot_folder import current, list_snapshots, locked, make_current
from model.bundle import Bundle
from model.catalogue import read_catalogue
from model.engine import Engine
from model.errors import SnapshotError
from model.pictures import TarPictures
from model.product import Catalogue

Crash = Callable[..., None]

# A build whose process kills itself, as hard as can be, when it reads the n-th picture.
KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from index.build import build
from model.bundle import Bundle
from model.catalogue import read_catalogue
from model.engine import Engine
from model.pictures import TarPictures

class Deadly(TarPictures):
    left = int(sys.argv[4])
    def read(self, name):
        Deadly.left -= 1
        if Deadly.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(name)

feed = Path(sys.argv[1])
catalogue = read_catalogue(feed, check_images=False)
catalogue = replace(catalogue, pictures=Deadly(feed.parent / "images.tar"))
engine = Engine(Bundle.open(Path(sys.argv[2])), threads=2)
build(catalogue, engine, Path(sys.argv[3]), progress=False, text_template="{title}", chunk=16)
"""


class Counting(TarPictures):
    """A tar that remembers what was read of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.names: list[str] = []

    def read(self, name: str) -> bytes:
        self.names.append(name)
        return super().read(name)


def _assert_same_files(ours: Path, theirs: Path) -> None:
    for name in FILES:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    manifests = [json.loads((path / "manifest.json").read_bytes()) for path in (ours, theirs)]
    for manifest in manifests:
        del manifest["created"], manifest["checksum"]
    assert manifests[0] == manifests[1]
    assert {entry.name for entry in ours.iterdir()} == {"manifest.json", *FILES}


def test_a_build_that_is_killed_twice_goes_on_and_ends_the_same(
    demo_catalogue: Path, catalogue: Catalogue, engine: Engine, root: Path, tmp_path: Path
) -> None:
    feed, own = demo_catalogue / "train.csv", tmp_path / "snapshots"
    positions = []
    for reads in (60, 60):
        arguments = [str(feed), str(engine.bundle.path), str(own), str(reads)]
        run = subprocess.run(
            [sys.executable, "-c", KILLED, *arguments],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=False,
        )
        assert run.returncode == -signal.SIGKILL, run.stderr
        (record,) = own.glob(".building-*.json")
        positions.append(json.loads(record.read_bytes())["position"])
        with pytest.raises(SnapshotError, match="there is no snapshot"):
            Snapshot.open(own)
    assert 0 < positions[0] < positions[1] < 96

    (own / f".{record.name}.1234.tmp").write_bytes(b"{")  # killed while it wrote its record
    # What a power cut may leave: more in a file than was recorded.
    with (own / record.stem / "text_states.npy").open("ab") as file:
        file.write(b"\x7f" * 1_000_000)
    pictures = Counting(demo_catalogue / "images.tar")
    with pictures:
        resumed = replace(catalogue, pictures=pictures)
        snapshot = build(resumed, engine, own, progress=False, text_template="{title}", chunk=16)
    left = [name for product in catalogue.products[positions[1] :] for name in product.images]
    assert sorted(pictures.names) == sorted(left)
    _assert_same_files(snapshot.path, root / "00000001")
    Snapshot.open(own, verify=True)
    assert sorted(entry.name for entry in own.iterdir()) == [".lock", "00000001", "CURRENT"]


@pytest.mark.parametrize("harm", ["shorter", "gone", "record", "folder"])
def test_an_unfinished_build_that_was_tampered_with_starts_anew(
    catalogue: Catalogue, engine: Engine, root: Path, tmp_path: Path, harm: str
) -> None:
    own = tmp_path / "snapshots"
    bad = replace(catalogue, pictures=_Failing(catalogue.pictures.path, after=50))
    with pytest.raises(RuntimeError, match="the store is gone"):
        build(bad, engine, own, progress=False, text_template="{title}", chunk=16)
    bad.close()
    (record,) = own.glob(".building-*.json")
    folder = own / record.stem
    if harm == "shorter":
        os.truncate(folder / "image_states.npy", 1000)
    elif harm == "gone":
        (folder / "images.bin").unlink()
    elif harm == "record":
        record.write_text('{"key": "')
    else:
        shutil.rmtree(folder)
    snapshot = build(catalogue, engine, own, progress=False, text_template="{title}", chunk=16)
    _assert_same_files(snapshot.path, root / "00000001")


class _Failing(TarPictures):
    def __init__(self, path: Path, after: int) -> None:
        super().__init__(path)
        self._left = after

    def read(self, name: str) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("the store is gone")
        return super().read(name)


def test_a_second_build_is_published_beside_the_first(
    own_root: Path, demo_catalogue: Path, engine: Engine
) -> None:
    old = Snapshot.open(own_root)
    (own_root / ".building-0123").mkdir()
    (own_root / ".building-0123.json").write_text("{}")
    with read_catalogue(demo_catalogue / "val.csv") as catalogue:
        new = build(catalogue, engine, own_root, progress=False)
    assert (new.name, len(new)) == ("00000002", 32)
    assert Snapshot.open(own_root).ids == new.ids
    assert Snapshot.open(own_root, "00000001").ids == old.ids
    assert not list(own_root.glob(".building-*"))
    Snapshot.open(own_root, old.name, verify=True)


def test_the_same_catalogue_again_is_a_new_snapshot(
    own_root: Path, catalogue: Catalogue, engine: Engine
) -> None:
    assert build(catalogue, engine, own_root, progress=False).name == "00000002"


def test_the_same_catalogue_again_after_a_run_that_failed(
    own_root: Path, catalogue: Catalogue, engine: Engine
) -> None:
    bad = replace(catalogue, pictures=_Failing(catalogue.pictures.path, after=50))
    with pytest.raises(RuntimeError, match="the store is gone"):
        build(bad, engine, own_root, progress=False, chunk=16)
    bad.close()
    snapshot = build(catalogue, engine, own_root, progress=False, chunk=16, text_template="{id}")
    assert (snapshot.name, snapshot.manifest.text_template) == ("00000002", "{id}")


BUILD = """
import sys
from pathlib import Path
from index.build import build
from model.bundle import Bundle
from model.catalogue import read_catalogue
from model.engine import Engine
feed, bundle, root = map(Path, sys.argv[1:])
with read_catalogue(feed) as catalogue:
    build(catalogue, Engine(Bundle.open(bundle), threads=1), root, progress=False)
"""


@pytest.mark.parametrize("since", ["nothing", "other recall", "damage"])
def test_killed_between_its_name_and_current_it_is_only_made_current(
    since: str, own_root: Path, demo_catalogue: Path, engine: Engine, crash: Crash
) -> None:
    feed = demo_catalogue / "val.csv"
    crash("publish-renamed", BUILD, feed, engine.bundle.path, own_root)
    assert (list_snapshots(own_root)[-1], current(own_root)) == ("00000002", "00000001")
    if since == "damage":
        with (own_root / "00000002" / "image_states.npy").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x55")
    pictures = Counting(demo_catalogue / "images.tar")
    with read_catalogue(feed) as read, pictures:
        catalogue = replace(read, pictures=pictures)
        recall = "hnsw" if since == "other recall" else "auto"
        made = build(catalogue, engine, own_root, progress=False, recall=recall).name
    assert made == current(own_root) == ("00000002" if since == "nothing" else "00000003")
    assert (pictures.names == []) == (since == "nothing")


def test_one_that_was_gone_back_from_stays_aside(
    own_root: Path, demo_catalogue: Path, engine: Engine
) -> None:
    with read_catalogue(demo_catalogue / "val.csv") as catalogue:
        build(catalogue, engine, own_root, progress=False)
        make_current(own_root, "00000001")
        kept = build(catalogue, engine, own_root, progress=False, if_changed=True)
        assert kept.name == current(own_root) == "00000001"
        # Unless it is asked for.
        made = build(catalogue, engine, own_root, progress=False)
        assert made.name == current(own_root) == "00000003"


@pytest.mark.parametrize("gone_back_to", ["another model's", "damaged"])
def test_one_that_was_gone_back_from_is_current_again_where_the_other_cannot_be_opened(
    gone_back_to: str,
    own_root: Path,
    demo_catalogue: Path,
    catalogue: Catalogue,
    engine: Engine,
    other_bundle: Bundle,
) -> None:
    if gone_back_to == "damaged":
        os.truncate(own_root / "00000001" / "images.bin", 1000)
        with read_catalogue(demo_catalogue / "val.csv") as feed:
            build(feed, engine, own_root, progress=False)
            make_current(own_root, "00000001")
            kept = build(feed, engine, own_root, progress=False, if_changed=True)
    else:
        other = Engine(other_bundle, threads=2)
        build(catalogue, other, own_root, progress=False)
        make_current(own_root, "00000001")
        kept = build(catalogue, other, own_root, progress=False, if_changed=True)
    assert kept.name == current(own_root) == list_snapshots(own_root)[-1] == "00000002"
    with pytest.raises(SnapshotError):
        Snapshot.open(own_root, "00000001", model_id=kept.model_id)


@pytest.mark.parametrize("left", [[], ["00000001"]])
def test_a_current_one_that_was_removed_is_made_anew(
    own_root: Path, demo_catalogue: Path, engine: Engine, left: list[str]
) -> None:
    with read_catalogue(demo_catalogue / "val.csv") as catalogue:
        build(catalogue, engine, own_root, progress=False)
        for name in {"00000001", "00000002"} - set(left):
            shutil.rmtree(own_root / name)
        made = build(catalogue, engine, own_root, progress=False, if_changed=True)
    assert list_snapshots(own_root) == [*left, "00000003"]
    assert made.name == current(own_root) == "00000003"  # as a service may have the second open
    Snapshot.open(own_root, verify=True)


def _write_fewer(items: Iterable[Item], path: Path) -> None:
    write_items(list(items)[1:], path)


def _write_twice(items: Iterable[Item], path: Path) -> None:
    first, _, *others = items
    write_items([first, first, *others], path)


def _write_others(embeddings: Embeddings, rule: Rule, path: Path) -> None:
    write_index(np.ascontiguousarray(embeddings[::-1]), rule, path)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (_write_fewer, "the manifest says"),
        (_write_twice, "names an id twice"),
        (_write_others, r"image\.faiss does not find"),
    ],
)
def test_what_cannot_be_opened_is_not_published(
    own_root: Path,
    demo_catalogue: Path,
    engine: Engine,
    make_put: Callable[..., Put],
    monkeypatch: pytest.MonkeyPatch,
    step: Callable[..., None],
    message: str,
) -> None:
    with LiveIndex.open(own_root) as live:
        live.exchange([make_put("a")])
    message = f"snapshot 00000002 cannot be opened, so it is not published.*{message}"
    with monkeypatch.context() as patched, read_catalogue(demo_catalogue / "val.csv") as catalogue:
        replaced = "write_index" if step is _write_others else "write_items"
        patched.setattr(f"index.finish.{replaced}", step)
        with pytest.raises(SnapshotError, match=message) as refused:
            build(catalogue, engine, own_root, progress=False)
        with pytest.raises(SnapshotError, match=message):
            compact(own_root)
    assert (current(own_root), list_snapshots(own_root)) == ("00000001", ["00000001"])
    # What was encoded stays, and is gone on from.
    (parts,) = (path for path in own_root.glob(".building-*") if path.is_dir())
    assert f"remove {parts} first" in str(refused.value)
    with monkeypatch.context() as patched, read_catalogue(demo_catalogue / "val.csv") as catalogue:
        for encode in ("encode_texts", "encode_images"):
            patched.delattr(Engine, encode)
        assert build(catalogue, engine, own_root, progress=False).name == "00000002"
    assert not list(own_root.glob(".building-*"))
    Snapshot.open(own_root, verify=True)


def test_two_builds_at_once(own_root: Path, catalogue: Catalogue, engine: Engine) -> None:
    with (
        locked(own_root),
        pytest.raises(SnapshotError, match="another build, compaction or pruning is running"),
    ):
        build(catalogue, engine, own_root, progress=False)
    assert list_snapshots(own_root) == ["00000001"]


def test_recall_can_be_chosen(catalogue: Catalogue, engine: Engine, tmp_path: Path) -> None:
    snapshot = build(catalogue, engine, tmp_path / "index", progress=False, recall="hnsw")
    assert snapshot.manifest.recall == {"image": "hnsw", "text": "hnsw"}
    Snapshot.open(tmp_path / "index", verify=True)
    rows, _ = snapshot.search_texts(snapshot.text_embeddings([40])[0], 5)
    assert 40 in rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recall": "ivfpq"}, "at least 10,000 vectors"),
        ({"recall": "annoy"}, "choose auto, exact"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"chunk": 0}, "chunk 0"),
        ({"processes": 0}, "processes 0"),
        ({"max_bad": 1.5}, "max_bad 1.5"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    catalogue: Catalogue,
    engine: Engine,
    tmp_path: Path,
    options: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(SnapshotError, match=message):
        build(catalogue, engine, tmp_path / "index", progress=False, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "index").exists()


def test_a_folder_that_cannot_be_written(
    catalogue: Catalogue, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "index").write_text("a file")
    with pytest.raises(SnapshotError, match=re.escape(f"cannot be written into {tmp_path}")):
        build(catalogue, engine, tmp_path / "index", progress=False)


def test_a_full_disk_is_an_error_and_the_build_goes_on_after_it(
    catalogue: Catalogue, engine: Engine, root: Path, tmp_path: Path
) -> None:
    own = tmp_path / "snapshots"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(SnapshotError, match=r"File too large; what is done is kept"):
            build(catalogue, engine, own, progress=False, text_template="{title}", chunk=16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (record,) = own.glob(".building-*.json")
    position = json.loads(record.read_bytes())["position"]
    assert 0 < position < 96
    pictures = Counting(catalogue.pictures.path)
    with pictures:
        snapshot = build(
            replace(catalogue, pictures=pictures),
            engine,
            own,
            progress=False,
            text_template="{title}",
            chunk=16,
        )
    assert len(pictures.names) == sum(len(p.images) for p in catalogue.products[position:])
    _assert_same_files(snapshot.path, root / "00000001")


def test_another_models_snapshot_is_not_gone_on_with(
    catalogue: Catalogue, engine: Engine, other_bundle: Bundle, tmp_path: Path
) -> None:
    own = tmp_path / "snapshots"
    failing = replace(catalogue, pictures=_Failing(catalogue.pictures.path, after=50))
    with pytest.raises(RuntimeError, match="the store is gone"):
        build(failing, Engine(other_bundle, threads=2), own, progress=False, chunk=16)
    failing.close()
    snapshot = build(catalogue, engine, own, progress=False)
    assert snapshot.model_id == engine.model_id != other_bundle.model_id
    assert not list(own.glob(".building-*"))
    with pytest.raises(SnapshotError, match=other_bundle.model_id):
        Snapshot.open(own, model_id=other_bundle.model_id)


def test_progress_shows_rate_and_time_left(
    catalogue: Catalogue, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(catalogue, engine, tmp_path / "index", progress=True, chunk=16)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "96/96" in shown.err
    assert "products/s" in shown.err
    assert "Publishing snapshot 00000001" in shown.err
