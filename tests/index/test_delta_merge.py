from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from index.delta import StoredPut
from index.delta_frames import list_segments
from index.delta_log import LogReader, first_write, last_write
from index.delta_records import Delete, Put, PutHead
from model.errors import SnapshotError, WriteError

if TYPE_CHECKING:
    from tests.index.conftest import Disk, Log

MakePut = Callable[..., Put]
Crash = Callable[..., None]


def _three_files(log: Log, make_put: MakePut) -> None:
    log.append(make_put("a"), make_put("b"), Delete("c"))
    log.rotate()
    log.append(make_put("a", 1), Delete("b"))
    log.rotate()
    log.append(make_put("a", 2))


def test_merging_keeps_the_last_write_of_each_product(
    log: Log, tmp_path: Path, make_put: MakePut
) -> None:
    _three_files(log, make_put)
    reader = LogReader(tmp_path, 0)
    reader.read()
    old = LogReader(tmp_path, 0)
    held = old.read()
    assert log.merge(after=0) > 0
    assert log.ids(log.read()) == [(3, "c"), (4, "a"), (5, "b"), (6, "a")]
    assert log.ids(log.read(after=4)) == [(5, "b"), (6, "a")]
    assert log.merge(after=0) == 0
    log.append(Delete("d"))
    assert log.ids(reader.read()) == [(7, "d")]
    first = held[0].record
    assert isinstance(first, PutHead)  # what is open stays readable
    assert StoredPut(1, first, held[0].segment).picture(0) == make_put("a").pictures[0]

    log.merge(after=4)
    assert log.ids(log.read(after=4)) == [(5, "b"), (6, "a"), (7, "d")]
    with pytest.raises(SnapshotError, match="begins at write 5"):
        log.read(after=3)

    log.merge(after=7)
    left = sorted(path.name for path in (tmp_path / "delta").iterdir())
    assert left == [".lock", "000000000006.log"]
    assert last_write(tmp_path, 0) == 7


def test_where_nothing_was_written_there_is_nothing_to_merge(log: Log, tmp_path: Path) -> None:
    assert log.merge(after=0) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after", [0, 4])
def test_merging_removes_nothing_before_what_replaces_it_is_stored(
    log: Log,
    disk: Disk,
    tmp_path: Path,
    make_put: MakePut,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    _three_files(log, make_put)
    lacking: dict[str, int] = {}
    monkeypatch.setattr(
        "index.delta_merge.crash_point",
        lambda point: lacking.update({point: disk.lacks(tmp_path)}),
    )
    assert log.merge(after) > 0
    assert lacking == {"merge-written": 0, "merge-replaced": 0, "merge-unlinked": 0}


@pytest.mark.parametrize("point", ["merge-written", "merge-replaced", "merge-unlinked"])
@pytest.mark.parametrize("after", [0, 2, 3])
def test_merging_may_be_killed(
    log: Log, tmp_path: Path, make_put: MakePut, crash: Crash, point: str, after: int
) -> None:
    _three_files(log, make_put)
    code = "import sys, pathlib; from index.delta_merge import merge_segments as merge\n"
    crash(point, code + "merge(pathlib.Path(sys.argv[1]), int(sys.argv[2]))", tmp_path, after)
    for snapshot in range(after, 7):
        last = {write.record.id: write.sequence for write in LogReader(tmp_path, snapshot).read()}
        wanted = {"c": 3, "a": 6, "b": 5}
        assert last == {id: number for id, number in wanted.items() if number > snapshot}
    log.append(Delete("d"))
    log.merge(after)
    numbers = [number for number, _ in log.ids(log.read(after))]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 7


def test_merging_on_a_full_disk_leaves_the_log_and_takes_no_room(
    log: Log, tmp_path: Path, make_put: MakePut, monkeypatch: pytest.MonkeyPatch
) -> None:
    _three_files(log, make_put)
    before = sorted((tmp_path / "delta").iterdir())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(WriteError, match="No space left"):
            log.merge(after=0)
    assert sorted((tmp_path / "delta").iterdir()) == before
    assert log.ids(log.read())[-1] == (6, "a")


def test_a_reader_finds_what_was_merged_into_the_file_that_it_reads(
    log: Log, tmp_path: Path
) -> None:
    for id in "aab":
        log.append(Delete(id))
    reader = LogReader(tmp_path, 0)
    assert log.ids(reader.read()) == [(1, "a"), (2, "a"), (3, "b")]
    log.rotate()
    log.append(Delete("c"), Delete("d"))
    log.rotate()
    log.append(Delete("e"))
    assert log.merge(after=0) > 0
    assert len(list_segments(tmp_path / "delta")) == 2
    assert log.ids(reader.read()) == [(4, "c"), (5, "d"), (6, "e")]


def _two_files_ahead(log: Log, root: Path, ids: str) -> LogReader:
    """A reader that has read "a", of a log with a file for each of two more."""
    log.append(Delete("a"))
    reader = LogReader(root, 0)
    reader.read()
    for id in ids:
        log.rotate()
        log.append(Delete(id))
    return reader


def test_a_file_may_be_merged_just_when_a_reader_turns_to_it(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = _two_files_ahead(log, tmp_path, "ab")

    def merging(folder: Path) -> list[Path]:
        segments = list_segments(folder)
        monkeypatch.setattr("index.delta_log.list_segments", list_segments)
        log.merge(after=0)
        return segments

    monkeypatch.setattr("index.delta_log.list_segments", merging)
    assert log.ids(reader.read()) == [(2, "a"), (3, "b")]
    assert len(list_segments(tmp_path / "delta")) == 2


def test_names_that_were_listed_while_files_were_merged_are_listed_again(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = _two_files_ahead(log, tmp_path, "bc")

    def without_the_second(folder: Path) -> list[Path]:
        monkeypatch.setattr("index.delta_log.list_segments", list_segments)
        first, _, *others = list_segments(folder)
        return [first, *others]

    monkeypatch.setattr("index.delta_log.list_segments", without_the_second)
    assert log.ids(reader.read()) == [(2, "b"), (3, "c")]


def test_readers_skip_nothing_while_files_are_merged(log: Log, tmp_path: Path) -> None:
    """Write n is of product n modulo 4; of each the last one so far is read, wherever one is."""
    log.append(Delete("1"))
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
        log.append(Delete(str(number % 4)))
        if number % 3 == 0:
            log.rotate()
        if number % 7 == 0:
            log.merge(after=0)
    done.set()
    looking.join()
    assert failures == []
    assert first_write(tmp_path) == 1
