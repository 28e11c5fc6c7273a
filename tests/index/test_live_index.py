from __future__ import annotations

import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from index.compact import compact
from index.delta_log import LogReader, LogWriter
from index.delta_records import Delete, Put
from index.encoding import Draft, encode_drafts
from index.images import prepare_image
from index.items import Item
from index.live import LiveSnapshot
from index.live_index import LiveIndex
from index.manifest import read_manifest, write_manifest
from index.snapshot import Snapshot
from index.snapshot_folder import current, make_current
from model.bundle import Bundle
from model.engine import Engine
from model.errors import SnapshotError, WriteError

MakePut = Callable[..., Put]


def test_a_restart_finds_all_that_was_written(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    with LiveIndex.open(own_root) as live:
        live.exchange([make_put("a"), Delete(snapshot.ids[0])])
        live.exchange([make_put("b"), make_put("a", 1)])
        first = live.latest
    with LiveIndex.open(own_root, verify=True) as live:
        assert live.latest.name == first.name
        assert {item.id for item in live.latest.items} == {item.id for item in first.items}
        assert live.latest.item(live.latest.row_of("a")) == make_put("a", 1).item


def test_two_readers_of_a_folder_see_the_same(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    one, other = LiveIndex.open(own_root), LiveIndex.open(own_root)
    one.exchange([make_put("a")])
    assert "a" not in {item.id for item in other.latest.items}
    assert other.refresh()
    assert not other.refresh()
    assert other.latest.name == one.latest.name
    other.exchange([Delete("a"), make_put("b")])
    assert one.refresh()
    with pytest.raises(KeyError):
        one.latest.row_of("a")
    assert one.latest.item(one.latest.row_of("b")) == make_put("b").item
    with pytest.raises(KeyError):
        Snapshot.open(own_root).row_of("b")


def test_another_process_is_followed(own_root: Path, make_put: MakePut) -> None:
    code = (
        "import sys, pathlib\n"
        "from index.delta_records import Delete\n"
        "from index.live_index import LiveIndex\n"
        "live = LiveIndex.open(pathlib.Path(sys.argv[1]))\n"
        "print(live.latest.row_of('a'), len(live.latest), flush=True)\n"
        "live.exchange([Delete(sys.argv[2])])\n"
    )
    with LiveIndex.open(own_root) as live:
        latest = live.exchange([make_put("a")])[1]
        live.watch(0.05)
        id = latest.item(5).id
        ran = subprocess.run(
            [sys.executable, "-c", code, str(own_root), id],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        assert ran.stdout.split() == [str(latest.row_of("a")), str(len(latest))]
        _wait_until(lambda: live.latest is not latest)
        with pytest.raises(KeyError):
            live.latest.row_of(id)


ACKNOWLEDGE = """
import pickle, sys
from pathlib import Path
from index.live_index import LiveIndex
live = LiveIndex.open(Path(sys.argv[1]))
for record in pickle.loads(Path(sys.argv[2]).read_bytes()):
    live.exchange([record])
    print(record.id, flush=True)
"""


def test_no_write_that_was_answered_for_is_lost_to_a_kill(
    own_root: Path, tmp_path: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    records = tmp_path / "records"
    records.write_bytes(pickle.dumps([make_put(f"n{number}", views=3) for number in range(500)]))
    child = subprocess.Popen(
        [sys.executable, "-c", ACKNOWLEDGE, str(own_root), str(records)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    answered = [child.stdout.readline().strip() for _ in range(20)]
    child.kill()
    answered += child.stdout.read().split()
    child.wait()
    child.stdout.close()
    assert len(answered) < 500
    with LiveIndex.open(own_root) as live:
        assert all(live.latest.row_of(id) >= len(snapshot) for id in answered)
        assert len(live.latest) - len(snapshot) - len(answered) in (0, 1)
        live.exchange([make_put("later")])
    assert LiveIndex.open(own_root).latest.row_of("later") >= 0


def test_threads_write_and_read_at_once(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    live, other = LiveIndex.open(own_root), LiveIndex.open(own_root)
    other.watch(0.001)
    failures: list[str] = []
    done = threading.Event()

    def write(name: str) -> None:
        for number in range(15):
            live.exchange([make_put(f"{name}-{number}-1"), make_put(f"{name}-{number}-2")])

    def read() -> None:
        while not done.is_set():
            for index in (live, other):
                latest = index.latest
                ids = [item.id for item in latest.items]
                if len(ids) != len(latest) or len(set(ids)) != len(ids):
                    failures.append(f"{latest.name} has a product twice")
                if {id[:-2] for id in ids if id.endswith("-1")} != {
                    id[:-2] for id in ids if id.endswith("-2") and id.startswith(("a-", "b-"))
                }:
                    failures.append(f"{latest.name} has half a batch")
                latest.search_images(latest.image_embeddings([0])[0], 300)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    other.close()
    other.refresh()
    assert failures == []
    assert live.latest.name == other.latest.name == f"{snapshot.name}+60"
    assert len(other.latest) == len(snapshot) + 60


def test_a_limit_on_what_differs(own_root: Path, snapshot: Snapshot, make_put: MakePut) -> None:
    live = LiveIndex.open(own_root, limit=3)
    live.exchange([make_put("a"), make_put("b"), Delete(snapshot.ids[0])])
    with pytest.raises(WriteError, match="fashionbert index compact") as caught:
        live.exchange([make_put("c")])
    assert caught.value.code == "delta_full"
    live.exchange([make_put("a", 1), make_put(snapshot.ids[0], 1)])  # no more differ than before
    live.exchange([Delete(snapshot.ids[1])])  # deletions always pass
    for seed in range(9):
        live.exchange([make_put("a", seed)])
    with pytest.raises(WriteError, match="after 15 writes"):
        live.exchange([make_put("a", 99)])
    assert LiveIndex.open(own_root, limit=3).latest.name == live.latest.name


def test_as_many_may_differ_as_the_limit_says(own_root: Path, make_put: MakePut) -> None:
    live = LiveIndex.open(own_root, limit=2)
    for record in (make_put("a"), Delete("a"), make_put("a"), make_put("b")):  # a counts once
        live.exchange([record])
    with pytest.raises(WriteError, match="2 products differ"):
        live.exchange([make_put("c")])


def test_a_new_snapshot_is_shown_and_a_bad_one_is_not(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    live = LiveIndex.open(own_root, verify=True)
    live.exchange([make_put("a")])
    old = live.latest
    second = own_root / "00000002"
    shutil.copytree(own_root / snapshot.name, second)
    make_current(own_root, "00000002")
    assert not live.refresh()  # its manifest is another's
    assert live.latest is old
    assert live.problem is not None
    live.exchange([make_put("b")])  # and what is served can be written to
    assert live.latest.row_of("b") >= 0
    make_current(own_root, snapshot.name)
    live.refresh()
    assert live.problem is None
    (own_root / "CURRENT").write_text("nonsense")
    live.refresh()
    assert live.problem is not None
    assert live.latest.row_of("b") >= 0


def test_a_snapshot_that_is_refused_is_looked_at_again_in_a_while(
    own_root: Path, snapshot: Snapshot, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the checks of the first one, and not at every look, as it may take minutes."""
    live = LiveIndex.open(own_root, engine=engine, verify=True)
    second = Path(shutil.copytree(own_root / snapshot.name, own_root / "00000002"))
    manifest = replace(read_manifest(second), name=second.name)
    states = second / "image_states.npy"
    whole = states.read_bytes()
    states.write_bytes(whole[:-1] + b"?")
    write_manifest(second, replace(manifest, model_id="fb-0123456789abcdef"))
    make_current(own_root, second.name)
    for minutes, problem in ((0, "made by model fb-0"), (1, "image_states.npy is damaged")):
        later = SimpleNamespace(monotonic=lambda at=60.0 * minutes: time.monotonic() + at)
        monkeypatch.setattr("index.live_index.time", later)
        assert not live.refresh()
        assert problem in str(live.problem)
        write_manifest(second, manifest)
    states.write_bytes(whole)
    assert not live.refresh()
    assert problem in str(live.problem)
    later.monotonic = lambda: time.monotonic() + 120
    assert live.refresh()
    assert (live.latest.name, live.problem) == (second.name, None)


def test_a_snapshot_that_there_is_no_memory_for_is_a_problem_too(
    own_root: Path, make_put: MakePut, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveIndex.open(own_root)
    live.exchange([make_put("a")])
    compact(own_root)
    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "open", Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            live.refresh()
    assert "cannot be opened: MemoryError()" in str(live.problem)
    assert live.catch_up().row_of("a") >= 0  # the writes go on
    assert "MemoryError" in str(live.problem)
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 60)
    monkeypatch.setattr("index.live_index.time", later)
    assert live.refresh()
    assert live.problem is None


def test_the_log_tells_what_is_served(
    own_root: Path, make_put: MakePut, caplog: pytest.LogCaptureFixture
) -> None:
    live = LiveIndex.open(own_root)
    live.exchange([make_put("a")])
    compact(own_root)
    with caplog.at_level(logging.INFO):
        live.refresh()
    assert caplog.messages == ["snapshot 00000002 is served now"]


def test_while_a_snapshot_is_opened_writes_go_on(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    live, other = LiveIndex.open(own_root), LiveIndex.open(own_root)
    manifest = own_root / "00000002" / "manifest.json"
    manifest.parent.mkdir()
    os.mkfifo(manifest)  # opening it takes until there is something to read
    make_current(own_root, "00000002")
    opening = threading.Thread(target=live.refresh)
    opening.start()
    try:
        assert live.exchange([make_put("a")])[1].name == f"{snapshot.name}+1"
        other.exchange([make_put("b")])
        assert live.refresh()
        assert live.latest.name == f"{snapshot.name}+2"
        assert opening.is_alive()
    finally:
        manifest.write_text("no manifest")
        opening.join()
    assert live.problem is not None
    assert live.latest.name == f"{snapshot.name}+2"


def test_while_a_watcher_opens_a_snapshot_writes_are_followed(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    live, other = LiveIndex.open(own_root), LiveIndex.open(own_root)
    manifest = own_root / "00000002" / "manifest.json"
    manifest.parent.mkdir()
    os.mkfifo(manifest)
    make_current(own_root, "00000002")
    live.watch(0.01)
    with manifest.open("w") as pipe:  # it is open once the watcher reads it, which now waits
        try:
            other.exchange([make_put("a")])
            _wait_until(lambda: live.latest.name == f"{snapshot.name}+1")
            other.exchange([Delete("a")])
            _wait_until(lambda: live.latest.name == f"{snapshot.name}+2")
            assert live.problem is None
        finally:
            pipe.write("no manifest")
    _wait_until(lambda: live.problem is not None)
    assert live.latest.name == f"{snapshot.name}+2"
    live.close()
    assert not [each for each in threading.enumerate() if each.name.startswith("watch-")]


def test_a_watched_view_never_goes_back_while_snapshots_are_switched(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    """Writes are read on by one thread while another takes them over to the next snapshot."""
    live = LiveIndex.open(own_root)
    live.exchange([make_put("n1")])
    compact(own_root)
    other = LiveIndex.open(own_root)
    other.watch(0.001)
    shown: list[LiveSnapshot] = [other.latest]
    for number in range(2, 61):
        live.exchange([make_put(f"n{number}")])
        if number % 5 == 0:
            make_current(own_root, ("00000002", snapshot.name)[number % 2])
        shown.append(other.latest)
    _wait_until(lambda: other.latest.sequence == 60)
    other.close()
    assert [each.sequence for each in shown] == sorted(each.sequence for each in shown)
    assert all(len(each) == len(snapshot) + each.sequence for each in shown)
    assert {each.base.name for each in shown} == {snapshot.name, "00000002"}


def _wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _written(engine: Engine, snapshot: Snapshot, id: str) -> Put:
    picture = snapshot.image(3)[0]
    item = Item(id, "A red dress", "A red dress. Long.", ("sha256:0",), {"price": 3})
    prepared = (prepare_image(picture, engine.image_size),)
    (put,) = encode_drafts(engine, [Draft(item, prepared)])
    return put


def test_writes_of_another_model_are_encoded_again(
    own_root: Path, snapshot: Snapshot, engine: Engine, other_bundle: Bundle
) -> None:
    other = Engine(other_bundle, threads=1)
    foreign = _written(other, snapshot, "a")
    assert foreign.model_id != snapshot.model_id
    with pytest.raises(WriteError, match="restart it with the new bundle"):
        LiveIndex.open(own_root).exchange([foreign])
    with LogWriter(own_root) as log:
        log.append(LogReader(own_root, 0), [foreign, Delete(snapshot.ids[0])])
    with pytest.raises(SnapshotError, match=r"compact --bundle"):
        LiveIndex.open(own_root)
    with pytest.raises(SnapshotError, match="1 products were written"):
        LiveIndex.open(own_root, engine=engine, encode_again_limit=0)
    latest = LiveIndex.open(own_root, engine=engine).latest
    wanted = _written(engine, snapshot, "a")
    row = latest.row_of("a")
    assert latest.item(row) == wanted.item
    np.testing.assert_array_equal(latest.text_states([row]).values, wanted.text_states.values)
    np.testing.assert_array_equal(
        latest.image_states(latest.image_rows(row)).values, wanted.image_states.values
    )
    assert len(latest) == len(snapshot)
    assert current(own_root) == snapshot.name
