"""Logs that are damaged, or not those that were read: nothing of them is lost by anyone."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from index.delta_frames import list_segments
from index.delta_log import LogReader, Write, last_write
from index.delta_records import Delete, Put
from model.errors import SnapshotError

if TYPE_CHECKING:
    from tests.index.conftest import Log

MakePut = Callable[..., Put]


@pytest.mark.parametrize("at", [0, 4, 8, 20, 24, 40, 2000])
def test_a_flipped_byte_before_other_writes_is_damage(
    log: Log, tmp_path: Path, make_put: MakePut, at: int
) -> None:
    log.append(make_put("a"))
    log.append(Delete("b"))
    (path,) = list_segments(tmp_path / "delta")
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(SnapshotError, match=r"000000000001\.log is damaged at byte 0"):
        log.read()
    with pytest.raises(SnapshotError, match="damaged"):
        log.append(Delete("c"))
    assert path.read_bytes() == data


def test_a_sealed_file_that_is_cut_short_is_damage(log: Log, tmp_path: Path) -> None:
    log.append(Delete("a"))
    log.append(Delete("b"))
    log.rotate()
    log.append(Delete("c"))
    path = list_segments(tmp_path / "delta")[0]
    os.truncate(path, path.stat().st_size - 1)
    writes: list[Write] = []
    with pytest.raises(SnapshotError, match="damaged"):
        LogReader(tmp_path, 0).read_into(writes)
    assert log.ids(writes) == [(1, "a")]  # who asks for it gets what is whole, and is told


@pytest.mark.parametrize("whole", [True, False])
def test_writes_that_are_missing_between_files_are_damage(
    log: Log, tmp_path: Path, whole: bool
) -> None:
    for id in "abcde":
        log.append(Delete(id))
        if id in "bd":
            log.rotate()
    path = list_segments(tmp_path / "delta")[1]
    data = path.read_bytes()
    if whole:
        path.unlink()
    else:
        os.truncate(path, len(data) // 2)  # its second frame is gone, wholly
    before, last = _contents(tmp_path), 2 if whole else 3
    message = rf"000000000005\.log begins at write 5, but the log before it ends at {last}: .* copy"
    writes: list[Write] = []
    reader = LogReader(tmp_path, 0)
    for _ in range(2):
        with pytest.raises(SnapshotError, match=message):
            reader.read_into(writes)
    assert log.ids(writes) == list(enumerate("abc"[:last], start=1))
    for attempt in (
        lambda: log.append(Delete("f")),
        log.rotate,
        lambda: log.merge(after=0),
    ):
        with pytest.raises(SnapshotError, match=message):
            attempt()
    assert _contents(tmp_path) == before
    assert log.ids(log.read(after=4)) == [(5, "e")]  # a snapshot that has them needs them not
    path.write_bytes(data)
    assert log.ids(log.read()) == list(enumerate("abcde", start=1))


def _contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in list_segments(root / "delta")}


def _overwrite(path: Path, start: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(data)


@pytest.mark.parametrize("followed", [True, False])
def test_what_looks_like_a_header_inside_a_damaged_frame_is_none(
    log: Log, tmp_path: Path, followed: bool
) -> None:
    """A picture may hold anything; a frame that is really there is found behind it."""
    log.append(Delete("a"))
    (path,) = list_segments(tmp_path / "delta")
    end = path.stat().st_size
    log.append(Delete("FBD1 FBD1"))
    if followed:
        log.append(Delete("c"))
    _overwrite(path, end, b"X")
    if followed:
        with pytest.raises(SnapshotError, match=f"damaged at byte {end}"):
            log.read()
    else:
        assert log.ids(log.read()) == [(1, "a")]  # torn
        log.append(Delete("b"))
        assert log.ids(log.read()) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("at", [0, 4, 20, 24, 40])
def test_damage_after_whole_frames_stops_everyone(
    log: Log, tmp_path: Path, sealed: bool, at: int
) -> None:
    """Nobody takes what stands before it for the whole log, cuts it off, or merges it away."""
    for id in "aab":
        log.append(Delete(id))
    (path,) = list_segments(tmp_path / "delta")
    end = path.stat().st_size
    log.append(Delete("c"))
    log.append(Delete("d"))
    if sealed:
        log.rotate()
        log.append(Delete("e"))
    _overwrite(path, end + at, bytes([path.read_bytes()[end + at] ^ 1]))
    before = _contents(tmp_path)
    message = rf"000000000001\.log is damaged at byte {end}"
    for attempt in (
        log.read,
        lambda: log.read(after=2),
        lambda: log.append(Delete("f")),
        log.rotate,
    ):
        with pytest.raises(SnapshotError, match=message):
            attempt()
    if sealed:
        with pytest.raises(SnapshotError, match=message):
            log.merge(after=0)
    else:
        with pytest.raises(SnapshotError, match=message):
            last_write(tmp_path, 0)
    assert _contents(tmp_path) == before


@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_log_that_the_disk_does_not_give_back(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    log.append(Delete("a"))
    reader = LogReader(tmp_path, 0)

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(SnapshotError, match=r"1\.log cannot be read: Input/output error"):
        reader.read()


def test_a_bad_block_across_frames_is_damage(log: Log, tmp_path: Path) -> None:
    """The end of a frame and the beginning of the next are gone: its header leads nowhere."""
    ends = []
    for id in "abcd":
        log.append(Delete(id))
        (path,) = list_segments(tmp_path / "delta")
        ends.append(path.stat().st_size)
    _overwrite(path, ends[1] - 10, bytes(20))
    before = _contents(tmp_path)
    with pytest.raises(SnapshotError, match=f"damaged at byte {ends[0]}"):
        log.append(Delete("e"))
    assert _contents(tmp_path) == before


def test_a_log_that_is_put_back_under_a_reader_is_refused(log: Log, tmp_path: Path) -> None:
    """Its numbers mean other writes than those that were read."""
    log.append(Delete("a"))
    folder, backup = tmp_path / "delta", tmp_path / "backup"
    shutil.copytree(folder, backup)
    log.append(Delete("b"))
    reader = LogReader(tmp_path, 0)
    assert log.ids(reader.read()) == [(1, "a"), (2, "b")]
    shutil.rmtree(folder)
    for restored in (False, True):
        if restored:
            shutil.copytree(backup, folder)
            log.append(Delete("x"))
        with pytest.raises(SnapshotError, match="restart what reads it"):
            reader.read()
    assert log.ids(log.read()) == [(1, "a"), (2, "x")]


def test_a_log_that_is_overwritten_under_a_reader_is_refused(log: Log, tmp_path: Path) -> None:
    log.append(Delete("a"))
    (path,) = list_segments(tmp_path / "delta")
    older = path.read_bytes()
    log.append(Delete("b"))
    reader = LogReader(tmp_path, 0)
    reader.read()
    path.write_bytes(older)
    with pytest.raises(SnapshotError, match="cut short"):
        reader.read()
    log.append(Delete("something longer"))
    with pytest.raises(SnapshotError, match="put back"):
        reader.read()
    assert log.ids(log.read()) == [(1, "a"), (2, "something longer")]
