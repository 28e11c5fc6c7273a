"""Writing to a catalogue that others write to as well, and to one whose log is damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from index.compact import compact, pending
from index.delta_frames import list_segments
from index.delta_log import LogReader, LogWriter
from index.delta_records import Delete, Put
from index.live_index import LiveIndex
from index.snapshot import Snapshot
from index.write_checks import ChangedError
from model.errors import SnapshotError, WriteError

MakePut = Callable[..., Put]


def test_a_damaged_log(own_root: Path, make_put: MakePut) -> None:
    live, other = LiveIndex.open(own_root), LiveIndex.open(own_root)
    live.exchange([make_put("a")])
    (path,) = list_segments(own_root / "delta")
    end = path.stat().st_size
    live.exchange([make_put("b")])
    live.exchange([make_put("c")])
    data = bytearray(path.read_bytes())
    data[end + 3000] ^= 1
    path.write_bytes(data)
    assert other.refresh()
    assert other.latest.row_of("a") >= 0  # all that is whole counts
    problem = other.problem
    assert problem is not None
    assert "damaged" in problem
    assert not other.refresh()
    with pytest.raises(WriteError, match="damaged"):
        other.exchange([make_put("d")])
    data[end + 3000] ^= 1
    path.write_bytes(data)
    assert other.refresh()
    assert (other.problem, other.latest.name) == (None, live.latest.name)


WRITE_THREE = """
import sys
from pathlib import Path
from index.delta_records import Delete
from index.live_index import LiveIndex
live = LiveIndex.open(Path(sys.argv[1]))
for id in sys.argv[2:]:
    print(live.exchange([Delete(id)])[1].name)
"""


def test_a_log_that_is_damaged_in_its_middle_is_neither_written_to_nor_opened(
    own_root: Path, snapshot: Snapshot
) -> None:
    """What another process was answered for stays in it, whoever writes, restarts or prunes."""
    ids = snapshot.ids
    live = LiveIndex.open(own_root)
    live.exchange([Delete(ids[0])])
    (path,) = list_segments(own_root / "delta")
    frame = path.stat().st_size
    ran = subprocess.run(
        [sys.executable, "-c", WRITE_THREE, str(own_root), *ids[1:4]],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert ran.stdout.split() == [f"{snapshot.name}+{number}" for number in (2, 3, 4)]
    data = bytearray(path.read_bytes())
    data[2 * frame + 40] ^= 1  # in the third
    path.write_bytes(data)
    with pytest.raises(WriteError, match=f"damaged at byte {2 * frame}") as caught:
        live.exchange([Delete(ids[10])])
    assert caught.value.code == "write_failed"
    assert (live.latest.sequence, live.latest.row_of(ids[10]) >= 0) == (2, True)
    for refused in (
        lambda: LiveIndex.open(own_root),
        lambda: compact(own_root),
        lambda: pending(own_root),
        live.rotate,
    ):
        with pytest.raises(SnapshotError, match="damaged"):
            refused()
    assert [path.read_bytes() for path in list_segments(own_root / "delta")] == [data]
    data[2 * frame + 40] ^= 1
    path.write_bytes(data)
    live.exchange([Delete(ids[10])])
    assert live.latest.sequence == 5
    assert not {*ids[:4], ids[10]} & {item.id for item in live.latest.items}


def test_who_waits_to_write_does_not_keep_others_from_reading(
    own_root: Path, snapshot: Snapshot
) -> None:
    live = LiveIndex.open(own_root)
    with LogWriter(own_root) as log:
        waiting = threading.Thread(target=live.exchange, args=([Delete(snapshot.ids[0])],))
        waiting.start()
        until_waiting(own_root)
        log.append(LogReader(own_root, 0), [Delete(snapshot.ids[1])])
        assert live.catch_up().name == f"{snapshot.name}+1"
        assert waiting.is_alive()
    waiting.join()
    assert live.latest.name == f"{snapshot.name}+2"


def until_waiting(root: Path) -> None:
    """Until two of this process have the lock's file open: one has it, the other wants it."""
    lock = os.path.realpath(root / "delta" / ".lock")
    deadline = time.monotonic() + 60
    while True:
        opened = [
            os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")
        ]
        if opened.count(lock) == 2:
            return
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_write_made_from_what_was_changed_since_is_refused(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    live, other = LiveIndex.open(own_root), LiveIndex.open(own_root)
    kept, deleted, replaced = snapshot.ids[:3]
    since = live.latest
    live.exchange([make_put(kept, 1)], unchanged={kept}, since=since)
    since = other.catch_up()
    live.exchange([Delete(deleted), make_put(replaced, 1), make_put("new")])
    for id in (deleted, replaced, "new"):
        with pytest.raises(ChangedError) as caught:
            other.exchange([make_put(id, 2)], unchanged={kept, id}, since=since)
        assert (caught.value.ids, caught.value.code) == ({id}, "write_busy")
        assert caught.value.latest.sequence == live.latest.sequence
    other.exchange([make_put(replaced, 2)], unchanged={kept, replaced}, since=other.latest)
    since = other.latest
    live.exchange([make_put(replaced, 2)])  # the same once more is another write
    with pytest.raises(ChangedError):
        other.exchange([make_put(replaced, 3)], unchanged={replaced}, since=since)
    assert compact(own_root) is not None
    since = other.latest
    other.refresh()
    with pytest.raises(ChangedError):
        other.exchange([make_put(kept, 4)], unchanged={kept}, since=since)


def test_a_fingerprint_tells_writes_that_have_the_same_numbers(
    own_root: Path, snapshot: Snapshot, make_put: MakePut
) -> None:
    one, two, three, *_ = snapshot.ids
    live = LiveIndex.open(own_root)
    seen = {live.latest.delta.fingerprint}
    live.exchange([Delete(one)])
    backup = shutil.copytree(own_root / "delta", own_root / "backup")
    live.exchange([Delete(two), make_put("a")])
    live.exchange([Delete(three)])
    assert LiveIndex.open(own_root).latest.delta.fingerprint == live.latest.delta.fingerprint
    seen |= {live.latest.delta.fingerprint}
    for record in (make_put("a", 1), Delete("a"), Delete("b")):
        shutil.rmtree(own_root / "delta")
        shutil.copytree(backup, own_root / "delta")
        again = LiveIndex.open(own_root)
        again.exchange([Delete(two), record])
        again.exchange([Delete(three)])  # the last frame is the same, byte by byte
        assert again.latest.name == live.latest.name
        assert again.latest.delta.fingerprint not in seen
        seen.add(again.latest.delta.fingerprint)
