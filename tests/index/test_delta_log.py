from __future__ import annotations

import errno
import fcntl
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from index.delta import StoredPut
from index.delta_frames import list_segments, segment_name
from index.delta_log import UNSYNCED, LogReader, LogWriter, first_write, last_write
from index.delta_records import Delete, Put, PutHead
from model.errors import SnapshotError, WriteError

if TYPE_CHECKING:
    from tests.index.conftest import Disk, Log

MakePut = Callable[..., Put]
Crash = Callable[..., None]

#: Appends the pickled records of a file of our own making.
APPEND = """
import pickle, sys
from pathlib import Path
from index.delta_log import LogReader, LogWriter
root = Path(sys.argv[1])
records = pickle.loads(Path(sys.argv[2]).read_bytes())
with LogWriter(root) as log:
    reader = LogReader(root, 0)
    reader.read()
    log.append(reader, records)
"""


def test_what_was_written_is_read(log: Log, make_put: MakePut) -> None:
    put = make_put("ü/1", views=2, colour="red", price=9.5, sale=True, stock=3)
    log.append(put, Delete("b"))
    log.append(make_put("c"))
    writes = log.read()
    assert log.ids(writes) == [(1, "ü/1"), (2, "b"), (3, "c")]
    assert writes[1].record == Delete("b")
    assert log.ids(log.read(after=2)) == [(3, "c")]
    head = writes[0].record
    assert isinstance(head, PutHead)
    assert head.item == put.item
    assert {name: type(value) for name, value in head.item.attributes.items()} == {
        "colour": str,
        "price": float,
        "sale": bool,
        "stock": int,
    }
    np.testing.assert_array_equal(head.text_embedding, put.text_embedding)
    np.testing.assert_array_equal(head.image_embeddings, put.image_embeddings)
    stored = StoredPut(1, head, writes[0].segment)
    np.testing.assert_array_equal(stored.text_states().values, put.text_states.values[0])
    np.testing.assert_array_equal(stored.text_states().scales, put.text_states.scales[0])
    for view in range(2):
        states = stored.image_states(view)
        np.testing.assert_array_equal(states.values, put.image_states.values[view])
        np.testing.assert_array_equal(states.scales, put.image_states.scales[view])
        assert stored.picture(view) == put.pictures[view]


def test_a_reader_goes_on_where_it_was(log: Log, tmp_path: Path, make_put: MakePut) -> None:
    reader = LogReader(tmp_path, 0)
    assert reader.read() == []
    log.append(Delete("a"))
    assert log.ids(reader.read()) == [(1, "a")]
    assert reader.read() == []
    log.rotate()
    log.append(make_put("b"), Delete("c"))
    log.rotate()
    log.rotate()
    log.append(Delete("d"))
    assert log.ids(reader.read()) == [(2, "b"), (3, "c"), (4, "d")]
    assert len(list_segments(tmp_path / "delta")) == 3
    assert (first_write(tmp_path), last_write(tmp_path, 0)) == (1, 4)


def test_numbers_go_on_after_what_a_snapshot_has(log: Log, tmp_path: Path) -> None:
    reader = LogReader(tmp_path, 41)
    with LogWriter(tmp_path) as writer:
        writer.append(reader, [Delete("a")])
    assert log.ids(reader.read()) == [(42, "a")]
    with pytest.raises(SnapshotError, match=r"begins at write 42, .* up to 40 only"):
        LogReader(tmp_path, 40)


@pytest.mark.parametrize("cut", [1, 10, 27, 28, 40, 1000])
def test_a_torn_end_is_not_read_and_is_cut_off(
    log: Log, tmp_path: Path, make_put: MakePut, cut: int
) -> None:
    log.append(Delete("a"))
    (path,) = list_segments(tmp_path / "delta")
    whole = path.stat().st_size
    log.append(make_put("b"), Delete("c"))
    os.truncate(path, whole + cut)
    assert log.ids(log.read()) == [(1, "a")]
    log.append(Delete("d"))
    assert log.ids(log.read()) == [(1, "a"), (2, "d")]


def test_zeros_at_the_end_are_a_torn_end_too(log: Log, tmp_path: Path) -> None:
    log.append(Delete("a"))
    (path,) = list_segments(tmp_path / "delta")
    with path.open("ab") as file:
        file.write(bytes(5000))
    assert log.ids(log.read()) == [(1, "a")]
    log.append(Delete("b"))
    assert log.ids(log.read()) == [(1, "a"), (2, "b")]


def test_an_end_of_the_right_length_may_be_torn_too(
    log: Log, tmp_path: Path, make_put: MakePut
) -> None:
    """A power cut may leave a file its length and its first page, and take the others."""
    log.append(Delete("a"))
    (path,) = list_segments(tmp_path / "delta")
    log.append(make_put("b"))
    size = path.stat().st_size
    os.truncate(path, 4096)
    os.truncate(path, size)
    assert log.ids(log.read()) == [(1, "a")]
    log.append(Delete("c"))
    assert log.ids(log.read()) == [(1, "a"), (2, "c")]


@pytest.mark.parametrize("point", ["append-before", "append-half", "append-unsynced"])
def test_a_writer_that_is_killed(
    log: Log, tmp_path: Path, make_put: MakePut, crash: Crash, point: str
) -> None:
    log.append(Delete("a"))
    reader = LogReader(tmp_path, 0)
    reader.read()
    records = tmp_path / "records"
    records.write_bytes(pickle.dumps([make_put("b"), Delete("c")]))
    crash(point, APPEND, tmp_path, records)
    # Nobody was told that it is there; if it is, it is so wholly.
    assert log.ids(reader.read()) in ([], [(2, "b"), (3, "c")])
    log.append(Delete("d"))
    assert [id for _, id in log.ids(log.read())] in (["a", "d"], ["a", "b", "c", "d"])


def test_what_was_synced_survives_its_writer(
    log: Log, tmp_path: Path, make_put: MakePut, crash: Crash
) -> None:
    records = tmp_path / "records"
    records.write_bytes(pickle.dumps([make_put("b"), Delete("c")]))
    crash("append-synced", APPEND, tmp_path, records)
    assert log.ids(log.read()) == [(1, "b"), (2, "c")]


@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_no_write_is_answered_for_before_those_in_front_of_it_are_stored(
    log: Log, disk: Disk, tmp_path: Path, failure: BaseException, rotated: bool
) -> None:
    """Whether the writer before was killed or its disk failed, and whoever writes next."""
    log.append(Delete("a"))
    assert disk.lacks(tmp_path) == 0
    disk.fails = failure
    with pytest.raises((WriteError, KeyboardInterrupt)):
        log.append(Delete("b"))
    if isinstance(failure, OSError):
        with pytest.raises(WriteError, match="could not be stored"):
            log.append(Delete("c"))
    disk.fails = None
    assert disk.lacks(tmp_path) > 0
    if rotated:
        log.rotate()
    log.append(Delete("d"))
    assert disk.lacks(tmp_path) == 0
    assert log.ids(log.read()) == [(1, "a"), (2, "b"), (3, "d")]
    assert not (tmp_path / "delta" / UNSYNCED).exists()


@pytest.mark.parametrize("begun", ["the folder", "a file"])
def test_a_log_that_another_has_begun_is_stored_too(
    log: Log, disk: Disk, tmp_path: Path, begun: str
) -> None:
    """It died right then, or is just about to sync it."""
    (tmp_path / "delta").mkdir()
    if begun == "a file":
        (tmp_path / "delta" / segment_name(1)).touch()
    log.append(Delete("a"))
    assert disk.lacks(tmp_path) == 0
    log.rotate()
    log.append(Delete("b"))
    assert disk.lacks(tmp_path) == 0


def test_writers_take_turns(log: Log) -> None:
    def write(name: str) -> None:
        for number in range(10):
            log.append(Delete(f"{name}{number}"))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writes = log.read()
    assert [write.sequence for write in writes] == list(range(1, 31))
    assert {write.record.id for write in writes} == {f"{n}{i}" for n in "abc" for i in range(10)}


def test_a_writer_does_not_wait_for_ever(tmp_path: Path) -> None:
    with LogWriter(tmp_path), pytest.raises(WriteError) as caught:
        LogWriter(tmp_path, timeout=0.02)
    assert caught.value.code == "write_busy"


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "delta").write_text("a file")
    with pytest.raises(WriteError, match="could not be stored"):
        LogWriter(tmp_path)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(WriteError, match="No locks available") as caught:
        LogWriter(tmp_path)
    assert caught.value.code == "write_failed"
