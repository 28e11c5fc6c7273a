from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index.delta_records import Delete
from index.encoding import Draft, encode_drafts
from index.images import prepare_image
from index.items import Item
from index.live_index import LiveIndex
from index.manifest import write_manifest
from index.snapshot import Snapshot
from index.snapshot_folder import current, list_snapshots
from model.bundle import Bundle
from model.catalogue import read_catalogue
from model.engine import Engine
from model.product import Catalogue

Shell = Callable[..., Any]


@pytest.fixture
def root(snapshot_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(snapshot_root, tmp_path / "snapshots"))


def write(root: Path, engine: Engine, photo: bytes, *ids: str, delete: str) -> None:
    prepared = (prepare_image(photo, engine.image_size),)
    drafts = [Draft(Item(id, "A hat", "A hat", ("sha256:0",), {}), prepared) for id in ids]
    with LiveIndex.open(root, engine=engine) as live:
        live.exchange([*encode_drafts(engine, drafts), Delete(delete)])


def test_compact_rollback_publish_prune(
    root: Path, engine: Engine, photo: bytes, snapshot: Snapshot, shell: Shell
) -> None:
    where = ("--snapshots", root)
    nothing = shell("index", "compact", *where)
    assert (nothing.code, "nothing was written" in nothing.err) == (0, True)
    write(root, engine, photo, "a", "b", delete=snapshot.ids[5])
    made = shell("index", "compact", *where)
    assert made.code == 0, made.err
    assert f"snapshot 00000002: {len(snapshot) + 1} products" in made.err
    assert Snapshot.open(root, verify=True).row_of("a") >= 0

    back = shell("index", "rollback", *where)
    assert (back.code, back.err) == (0, f"snapshot 00000001 is current: {len(snapshot)} products\n")
    with LiveIndex.open(root) as live:
        assert len(live.latest) == len(snapshot) + 1
        with pytest.raises(KeyError):
            live.latest.row_of(snapshot.ids[5])
    first = shell("index", "rollback", *where)
    assert (first.code, "no snapshot before 00000001" in first.err) == (2, True)
    assert shell("index", "publish", "00000002", *where).code == 0
    assert current(root) == "00000002"
    unknown = shell("index", "publish", "00000009", *where)
    assert (unknown.code, "choose one of 00000001, 00000002" in unknown.err) == (2, True)

    live = LiveIndex.open(root)
    shell("index", "rollback", *where)
    kept = shell("index", "prune", "--keep", "1", *where)
    assert "left, because a service reads them: 00000002" in kept.err
    del live
    gone = shell("index", "prune", "--keep", "1", *where)
    assert (gone.code, gone.err) == (0, "removed: 00000002\n")
    assert list_snapshots(root) == ["00000001"]


def test_info_says_what_a_compaction_knows_no_more(
    root: Path, engine: Engine, photo: bytes, snapshot: Snapshot, shell: Shell
) -> None:
    left_out = {"truncated_texts": 1200, "skipped_pictures": 5, "dropped_products": 3}
    write_manifest(root / snapshot.name, replace(snapshot.manifest, **left_out))  # type: ignore[arg-type]

    def told() -> dict[str, str]:
        lines = shell("index", "info", "--snapshots", root).out.splitlines()
        words = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
        return {name: words[name] for name in ("compacted", *left_out)}

    assert list(told().values()) == ["no", "1,200", "5", "3"]
    write(root, engine, photo, "a", delete="nobody")
    shell("index", "compact", "--snapshots", root)
    assert list(told().values()) == [
        "yes",
        f"at most {len(snapshot) + 1}",  # there are no more
        "5, by the last build",
        "3, by the last build",
    ]


def test_a_damaged_snapshot_is_not_published(
    root: Path, engine: Engine, photo: bytes, snapshot: Snapshot, shell: Shell
) -> None:
    write(root, engine, photo, "a", delete="nobody")
    shell("index", "compact", "--snapshots", root)
    file = root / "00000001" / "text_states.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    refused = shell("index", "rollback", "--snapshots", root)
    assert refused.code == 2
    assert f"error: {file} is damaged" in refused.err
    assert current(root) == "00000002"
    assert shell("index", "rollback", "--no-verify", "--snapshots", root).code == 0


def test_verify_reads_the_log(
    root: Path, engine: Engine, photo: bytes, snapshot: Snapshot, shell: Shell
) -> None:
    write(root, engine, photo, "a", delete=snapshot.ids[5])
    (log,) = (root / "delta").glob("*.log")
    end = log.stat().st_size
    write(root, engine, photo, delete="nobody")
    verify = ("index", "verify", "--snapshots", root)
    whole = shell(*verify)
    assert (whole.code, whole.err) == (0, "")
    assert "the log is whole: 3 writes, 3 on top of the snapshot" in whole.out

    with log.open("ab") as file:
        file.write(b"FBD1 torn")
    torn = shell(*verify)
    assert (torn.code, "the last 9 bytes of the log are no whole write" in torn.err) == (0, True)

    data = log.read_bytes()
    log.write_bytes(data[: end - 1] + bytes([data[end - 1] ^ 1]) + data[end:])
    damaged = shell(*verify)
    assert (damaged.code, "snapshot 00000001 is whole" in damaged.out) == (2, True)
    assert f"{log} is damaged at byte 0" in damaged.err
    log.rename(log.with_name("000000000003.log"))
    assert "begins at write 3, but the snapshot has the writes up to 0" in shell(*verify).err


def test_a_build_with_writes_on_top(
    root: Path,
    feed: Path,
    demo_catalogue: Path,
    bundle: Bundle,
    other_bundle: Bundle,
    engine: Engine,
    photo: bytes,
    snapshot: Snapshot,
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(root, engine, photo, "a", delete=snapshot.ids[5])

    def build(made_by: Bundle, *more: str) -> str:
        command = ["index", "build", feed, "--bundle", made_by.path, "--out", root]
        ran = shell(*command, "--images", demo_catalogue / "images.tar", *more)
        assert ran.code == 0, ran.err
        return str(ran.err)

    unchanged = build(bundle)
    assert "2 products that were written to the service stand on top" in unchanged
    assert "restarted with the other bundle" not in unchanged
    with LiveIndex.open(root) as live:
        assert live.latest.name == "00000002+2"
    told = build(other_bundle)
    assert "1 products that another model has encoded are encoded again" in told
    assert "restarted with the other bundle" in told
    assert current(root) == "00000004"
    folded = Snapshot.open(root, model_id=other_bundle.model_id)
    assert folded.row_of("a") >= 0
    assert snapshot.ids[5] not in folded.ids
    back = shell("index", "publish", "00000002", "--snapshots", root)
    assert "until they are restarted with the other bundle" in back.err
    assert "stand on top" not in build(bundle, "--supersede")
    assert Snapshot.open(root).ids == snapshot.ids

    def read_while_it_is_written_to(*arguments: Any, **options: Any) -> Catalogue:
        write(root, engine, photo, delete=snapshot.ids[0])
        return read_catalogue(*arguments, **options)

    monkeypatch.setattr("model.catalogue.read_catalogue", read_while_it_is_written_to)
    build(bundle, "--supersede")
    with LiveIndex.open(root) as live, pytest.raises(KeyError):
        live.latest.row_of(snapshot.ids[0])


COMMANDS = [["publish", "00000001"], ["rollback"], ["prune"], ["compact"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_folder_that_is_not_there_is_said_and_not_made(
    command: list[str], tmp_path: Path, shell: Shell
) -> None:
    nowhere = tmp_path / "nowhere"
    ran = shell("index", *command, "--snapshots", nowhere)
    assert ran.code == 2
    assert f"in {nowhere}: make one with `fashionbert index build`" in ran.err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert shell("index", *command, "--snapshots", empty).code == 2
    file = tmp_path / "file"
    file.touch()
    ran = shell("index", *command, "--snapshots", file)
    assert (ran.code, ran.err.startswith("error: "), str(file) in ran.err) == (2, True, True)
    assert sorted(tmp_path.rglob("*")) == [empty, file]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_folder_that_cannot_be_written_to_is_said(
    command: list[str], root: Path, shell: Shell
) -> None:
    shutil.copytree(root / "00000001", root / "00000002")
    (root / "CURRENT").write_text("00000002\n")
    # Also root, who may write everywhere, can write no file that is a folder.
    (root / ".lock").unlink()
    (root / ".lock").mkdir()
    (root / f".CURRENT.{os.getpid()}.tmp").mkdir()
    unverified = ["--no-verify"] if command[0] in ("publish", "rollback") else []
    ran = shell("index", *command, *unverified, "--snapshots", root)
    assert ran.code == 2
    assert "error: " in ran.err
    assert "once that is mended" in ran.err
    assert str(root) in ran.err
    assert current(root) == "00000002"
    assert list_snapshots(root) == ["00000001", "00000002"]


def test_the_help_names_them(shell: Shell) -> None:
    told = shell("index", "--help").out
    assert all(name in told for name in ("publish", "rollback", "prune", "compact"))
    assert shell("index", "prune", "--keep", "0").code == 2
