from __future__ import annotations

import errno
import fcntl
import os
import pickle
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from index.delta import StoredPut
from index.delta_frames import list_segments, segment_name
from index.delta_log import UNSYNCED, LogReader, LogWriter, Write, first_write, last_write
from index.delta_merge import merge_segments
from index.delta_records import Delete, Put, PutHead
from model.errors import SnapshotError, WriteError

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


def append(root: Path, *records: Put | Delete) -> None:
    with LogWriter(root) as log:
        reader = LogReader(root, first_write(root) - 1)
        reader.read()
        log.append(reader, records)


def rotate(root: Path) -> None:
    with LogWriter(root) as log:
        reader = LogReader(root, first_write(root) - 1)
        reader.read()
        log.rotate(reader)


def read(root: Path, after: int = 0) -> list[Write]:
    return LogReader(root, after).read()


def ids(writes: list[Write]) -> list[tuple[int, str]]:
    return [(write.sequence, write.record.id) for write in writes]


def test_what_was_written_is_read(tmp_path: Path, make_put: MakePut) -> None:
    put = make_put("ü/1", views=2, colour="red", price=9.5, sale=True, stock=3)
    append(tmp_path, put, Delete("b"))
    append(tmp_path, make_put("c"))
    writes = read(tmp_path)
    assert ids(writes) == [(1, "ü/1"), (2, "b"), (3, "c")]
    assert writes[1].record == Delete("b")
    assert ids(read(tmp_path, after=2)) == [(3, "c")]
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


def test_a_reader_goes_on_where_it_was(tmp_path: Path, make_put: MakePut) -> None:
    reader = LogReader(tmp_path, 0)
    assert reader.read() == []
    append(tmp_path, Delete("a"))
    assert ids(reader.read()) == [(1, "a")]
    assert reader.read() == []
    rotate(tmp_path)
    append(tmp_path, make_put("b"), Delete("c"))
    rotate(tmp_path)
    rotate(tmp_path)
    append(tmp_path, Delete("d"))
    assert ids(reader.read()) == [(2, "b"), (3, "c"), (4, "d")]
    assert len(list_segments(tmp_path / "delta")) == 3
    assert (first_write(tmp_path), last_write(tmp_path, 0)) == (1, 4)


def test_numbers_go_on_after_what_a_snapshot_has(tmp_path: Path) -> None:
    reader = LogReader(tmp_path, 41)
    with LogWriter(tmp_path) as log:
        log.append(reader, [Delete("a")])
    assert ids(reader.read()) == [(42, "a")]
    with pytest.raises(SnapshotError, match=r"begins at write 42, .* up to 40 only"):
        LogReader(tmp_path, 40)


@pytest.mark.parametrize("cut", [1, 10, 27, 28, 40, 1000])
def test_a_torn_end_is_not_read_and_is_cut_off(tmp_path: Path, make_put: MakePut, cut: int) -> None:
    append(tmp_path, Delete("a"))
    (path,) = list_segments(tmp_path / "delta")
    whole = path.stat().st_size
    append(tmp_path, make_put("b"), Delete("c"))
    os.truncate(path, whole + cut)
    assert ids(read(tmp_path)) == [(1, "a")]
    append(tmp_path, Delete("d"))
    assert ids(read(tmp_path)) == [(1, "a"), (2, "d")]


def test_zeros_at_the_end_are_a_torn_end_too(tmp_path: Path) -> None:
    append(tmp_path, Delete("a"))
    (path,) = list_segments(tmp_path / "delta")
    with path.open("ab") as file:
        file.write(bytes(5000))
    assert ids(read(tmp_path)) == [(1, "a")]
    append(tmp_path, Delete("b"))
    assert ids(read(tmp_path)) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("point", ["append-before", "append-half", "append-unsynced"])
def test_a_writer_that_is_killed(
    tmp_path: Path, make_put: MakePut, crash: Crash, point: str
) -> None:
    append(tmp_path, Delete("a"))
    reader = LogReader(tmp_path, 0)
    reader.read()
    records = tmp_path / "records"
    records.write_bytes(pickle.dumps([make_put("b"), Delete("c")]))
    crash(point, APPEND, tmp_path, records)
    # Nobody was told that it is there; if it is, it is so wholly.
    assert ids(reader.read()) in ([], [(2, "b"), (3, "c")])
    append(tmp_path, Delete("d"))
    assert [id for _, id in ids(read(tmp_path))] in (["a", "d"], ["a", "b", "c", "d"])


def test_what_was_synced_survives_its_writer(
    tmp_path: Path, make_put: MakePut, crash: Crash
) -> None:
    records = tmp_path / "records"
    records.write_bytes(pickle.dumps([make_put("b"), Delete("c")]))
    crash("append-synced", APPEND, tmp_path, records)
    assert ids(read(tmp_path)) == [(1, "b"), (2, "c")]


class Disk:
    """What a disk has of the log's files: what is synced, if that succeeds, and so is their name.

    As Linux does it, what fails to be synced is not tried again by the next `os.fsync`, unless
    `os.write` has written it anew.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: BaseException | None = None
        self._write, self._fsync = os.write, os.fsync
        self._stored: dict[int, set[int]] = {}  # the bytes by the file's number
        self._lost: dict[int, set[int]] = {}
        self._names: dict[tuple[int, str], int] = {}  # the file's number by folder and name
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def write(self, file: int, data: bytes) -> int:
        start = os.lseek(file, 0, os.SEEK_CUR)
        written = self._write(file, data)
        self._lost.get(os.fstat(file).st_ino, set()).difference_update(
            range(start, start + written)
        )
        return written

    def fsync(self, file: int) -> None:
        status = os.fstat(file)
        stored = self._stored.setdefault(status.st_ino, set())
        lost = self._lost.setdefault(status.st_ino, set())
        every = set(range(status.st_size))
        if isinstance(self.fails, OSError):
            lost |= every - stored
        if self.fails is not None:
            raise self.fails
        self._fsync(file)
        if stat.S_ISDIR(status.st_mode):
            for entry in os.scandir(file):
                self._names[status.st_ino, entry.name] = entry.inode()
        stored |= every - lost

    def lacks(self, root: Path) -> int:
        """How many bytes of the log a power cut would take."""
        return sum(self._lacks_of(path) for path in list_segments(root / "delta"))

    def _lacks_of(self, path: Path) -> int:
        every = set(range(path.stat().st_size))
        if not (self._has_name(path) and self._has_name(path.parent)):
            return len(every)
        return len(every - self._stored.get(path.stat().st_ino, set()))

    def _has_name(self, path: Path) -> bool:
        number = self._names.get((path.parent.stat().st_ino, path.name))
        return number == path.stat().st_ino


@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_no_write_is_answered_for_before_those_in_front_of_it_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, rotated: bool
) -> None:
    """Whether the writer before was killed or its disk failed, and whoever writes next."""
    disk = Disk(monkeypatch)
    append(tmp_path, Delete("a"))
    assert disk.lacks(tmp_path) == 0
    disk.fails = failure
    with pytest.raises((WriteError, KeyboardInterrupt)):
        append(tmp_path, Delete("b"))
    if isinstance(failure, OSError):
        with pytest.raises(WriteError, match="could not be stored"):
            append(tmp_path, Delete("c"))
    disk.fails = None
    assert disk.lacks(tmp_path) > 0
    if rotated:
        rotate(tmp_path)
    append(tmp_path, Delete("d"))
    assert disk.lacks(tmp_path) == 0
    assert ids(read(tmp_path)) == [(1, "a"), (2, "b"), (3, "d")]
    assert not (tmp_path / "delta" / UNSYNCED).exists()


@pytest.mark.parametrize("begun", ["the folder", "a file"])
def test_a_log_that_another_has_begun_is_stored_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    """It died right then, or is just about to sync it."""
    (tmp_path / "delta").mkdir()
    if begun == "a file":
        (tmp_path / "delta" / segment_name(1)).touch()
    disk = Disk(monkeypatch)
    append(tmp_path, Delete("a"))
    assert disk.lacks(tmp_path) == 0
    rotate(tmp_path)
    append(tmp_path, Delete("b"))
    assert disk.lacks(tmp_path) == 0


def test_writers_take_turns(tmp_path: Path) -> None:
    def write(name: str) -> None:
        for number in range(10):
            append(tmp_path, Delete(f"{name}{number}"))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writes = read(tmp_path)
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


def _three_files(root: Path, make_put: MakePut) -> None:
    append(root, make_put("a"), make_put("b"), Delete("c"))
    rotate(root)
    append(root, make_put("a", 1), Delete("b"))
    rotate(root)
    append(root, make_put("a", 2))


def test_merging_keeps_the_last_write_of_each_product(tmp_path: Path, make_put: MakePut) -> None:
    _three_files(tmp_path, make_put)
    reader = LogReader(tmp_path, 0)
    reader.read()
    old = LogReader(tmp_path, 0)
    held = old.read()
    assert merge_segments(tmp_path, after=0) > 0
    assert ids(read(tmp_path)) == [(3, "c"), (4, "a"), (5, "b"), (6, "a")]
    assert ids(read(tmp_path, after=4)) == [(5, "b"), (6, "a")]
    assert merge_segments(tmp_path, after=0) == 0
    append(tmp_path, Delete("d"))
    assert ids(reader.read()) == [(7, "d")]
    first = held[0].record
    assert isinstance(first, PutHead)  # what is open stays readable
    assert StoredPut(1, first, held[0].segment).picture(0) == make_put("a").pictures[0]

    merge_segments(tmp_path, after=4)
    assert ids(read(tmp_path, after=4)) == [(5, "b"), (6, "a"), (7, "d")]
    with pytest.raises(SnapshotError, match="begins at write 5"):
        read(tmp_path, after=3)

    merge_segments(tmp_path, after=7)
    assert [path.name for path in list_segments(tmp_path / "delta")] == ["000000000006.log"]
    assert last_write(tmp_path, 0) == 7


@pytest.mark.parametrize("after", [0, 4])
def test_merging_removes_nothing_before_what_replaces_it_is_stored(
    tmp_path: Path, make_put: MakePut, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    disk = Disk(monkeypatch)
    _three_files(tmp_path, make_put)
    lacking: dict[str, int] = {}
    monkeypatch.setattr(
        "index.delta_merge.crash_point",
        lambda point: lacking.update({point: disk.lacks(tmp_path)}),
    )
    assert merge_segments(tmp_path, after) > 0
    assert lacking == {"merge-written": 0, "merge-replaced": 0, "merge-unlinked": 0}


@pytest.mark.parametrize("point", ["merge-written", "merge-replaced", "merge-unlinked"])
@pytest.mark.parametrize("after", [0, 2, 3])
def test_merging_may_be_killed(
    tmp_path: Path, make_put: MakePut, crash: Crash, point: str, after: int
) -> None:
    _three_files(tmp_path, make_put)
    code = "import sys, pathlib; from index.delta_merge import merge_segments as merge\n"
    crash(point, code + "merge(pathlib.Path(sys.argv[1]), int(sys.argv[2]))", tmp_path, after)
    for snapshot in range(after, 7):
        last = {write.record.id: write.sequence for write in LogReader(tmp_path, snapshot).read()}
        wanted = {"c": 3, "a": 6, "b": 5}
        assert last == {id: number for id, number in wanted.items() if number > snapshot}
    append(tmp_path, Delete("d"))
    merge_segments(tmp_path, after)
    numbers = [number for number, _ in ids(read(tmp_path, after))]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 7


def test_merging_on_a_full_disk_leaves_the_log_and_takes_no_room(
    tmp_path: Path, make_put: MakePut, monkeypatch: pytest.MonkeyPatch
) -> None:
    _three_files(tmp_path, make_put)
    before = sorted((tmp_path / "delta").iterdir())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match="No space left"):
            merge_segments(tmp_path, after=0)
    assert sorted((tmp_path / "delta").iterdir()) == before
    assert ids(read(tmp_path))[-1] == (6, "a")


def test_a_reader_finds_what_was_merged_into_the_file_that_it_reads(tmp_path: Path) -> None:
    for id in "aab":
        append(tmp_path, Delete(id))
    reader = LogReader(tmp_path, 0)
    assert ids(reader.read()) == [(1, "a"), (2, "a"), (3, "b")]
    rotate(tmp_path)
    append(tmp_path, Delete("c"), Delete("d"))
    rotate(tmp_path)
    append(tmp_path, Delete("e"))
    assert merge_segments(tmp_path, after=0) > 0
    assert len(list_segments(tmp_path / "delta")) == 2
    assert ids(reader.read()) == [(4, "c"), (5, "d"), (6, "e")]


def _two_files_ahead(root: Path, ids: str) -> LogReader:
    """A reader that has read "a", of a log with a file for each of two more."""
    append(root, Delete("a"))
    reader = LogReader(root, 0)
    reader.read()
    for id in ids:
        rotate(root)
        append(root, Delete(id))
    return reader


def test_a_file_may_be_merged_just_when_a_reader_turns_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = _two_files_ahead(tmp_path, "ab")

    def merging(folder: Path) -> list[Path]:
        segments = list_segments(folder)
        monkeypatch.setattr("index.delta_log.list_segments", list_segments)
        merge_segments(tmp_path, after=0)
        return segments

    monkeypatch.setattr("index.delta_log.list_segments", merging)
    assert ids(reader.read()) == [(2, "a"), (3, "b")]
    assert len(list_segments(tmp_path / "delta")) == 2


def test_names_that_were_listed_while_files_were_merged_are_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = _two_files_ahead(tmp_path, "bc")

    def without_the_second(folder: Path) -> list[Path]:
        monkeypatch.setattr("index.delta_log.list_segments", list_segments)
        first, _, *others = list_segments(folder)
        return [first, *others]

    monkeypatch.setattr("index.delta_log.list_segments", without_the_second)
    assert ids(reader.read()) == [(2, "b"), (3, "c")]


def test_readers_skip_nothing_while_files_are_merged(tmp_path: Path) -> None:
    """Write n is of product n modulo 4; of each the last one so far is read, wherever one is."""
    append(tmp_path, Delete("1"))
    following = LogReader(tmp_path, 0)
    known: dict[str, int] = {}
    failures: list[str] = []
    done = threading.Event()

    def check(last: dict[str, int], until: int) -> None:
        wanted = {str(n % 4): n for n in range(1, until + 1)}
        if last != wanted:
            failures.append(f"{last} at {until}")

    def look() -> None:
        try:
            while not done.is_set():
                fresh = LogReader(tmp_path, 0)
                check({write.record.id: write.sequence for write in fresh.read()}, fresh.sequence)
                known.update({write.record.id: write.sequence for write in following.read()})
                check(known, following.sequence)
        except Exception as error:
            failures.append(repr(error))

    looking = threading.Thread(target=look)
    looking.start()
    for number in range(2, 120):
        append(tmp_path, Delete(str(number % 4)))
        if number % 3 == 0:
            rotate(tmp_path)
        if number % 7 == 0:
            merge_segments(tmp_path, after=0)
    done.set()
    looking.join()
    assert failures == []
    assert first_write(tmp_path) == 1
