"""The log of the writes that came after a snapshot was built: files that are only appended to.

    snapshots/delta/000000000001.log     writes 1, 2, ...
    snapshots/delta/000000000813.log     writes 813, ...: the one that is appended to
    snapshots/delta/.lock                held by who writes
    snapshots/delta/.unsynced            there while the last frame could not be synced

A file is a row of frames, and a frame is what one request wrote:

    4 bytes    "FBD1"
    uint32     length of the payload
    uint64     number of the first write in it
    uint32     how many writes
    uint32     CRC-32 of the payload
    uint32     CRC-32 of the header so far
    payload    the records, see `index.delta_records`

A frame counts wholly or not at all. The next one is written only after the last was synced, so a
frame that is not whole and has no whole one behind it was never answered for: it was torn by a
crash, and the next writer cuts it off. One that has a whole frame behind it is damage, and is
refused: nothing is read past it, cut off, merged or written. So is a file that begins later than
after the last write of the one before it: writes are missing. (Within a file numbers may be left
out, as a merge drops what was replaced; but the last write of all that it merges stays.)

One process writes at a time, any number read along. Numbers of writes only ever grow; a reader
skips what it has seen, so that a write may stand in two files while files are being merged.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from index.delta_frames import (
    FOLDER,
    Header,
    Segment,
    encode_frame,
    first_in,
    list_segments,
    read_frame,
    read_header,
    segment_name,
    unreadable,
)
from index.delta_records import Delete, Put, PutHead, Span, decode_records, encode_record
from index.faults import crash_point
from model.errors import SnapshotError, WriteError
from model.files import sync_folder

UNSYNCED = ".unsynced"
LOCK_SECONDS = 5.0  # less than a search waits for its turn: a write that waits here has its place

_logger = logging.getLogger("fashionbert.delta")


@dataclass(frozen=True, slots=True)
class Write:
    """One write: its number, the checksum of its frame, what it is, and where its record stands."""

    sequence: int
    checksum: int
    record: PutHead | Delete
    segment: Segment
    span: Span


class LogReader:
    """Reads a log from a write on, and what is appended later.

    `sequence` is the number of the last write that was read, or that the log is known to be past.

    Args:
        root: the folder of all snapshots.
        after: the last write that is not wanted.

    Raises:
        SnapshotError: the log begins later than that: writes are missing.
    """

    def __init__(self, root: Path, after: int) -> None:
        self._folder = root / FOLDER
        self.sequence = after
        self._segment: Segment | None = None
        self._offset = 0
        self._last: tuple[int, Header] | None = None  # the last frame in the segment, and its place
        self._check_beginning(list_segments(self._folder))

    def read(self) -> list[Write]:
        """The writes that have come since the last call, in order.

        Raises:
            SnapshotError: the log is damaged, or was replaced by another one.
        """
        writes: list[Write] = []
        self.read_into(writes)
        return writes

    def read_into(self, writes: list[Write]) -> None:
        """As `read`; when it raises, `writes` has got those before the damage."""
        while True:
            # Looked at in this order: a file is merged with others only when there is a later one,
            # and one that has a later one is not written to any more.
            segment = self._segment
            is_there = segment is None or segment.has_its_name()
            segments = list_segments(self._folder)
            if segment is not None:
                sealed = any(first_in(path) > segment.first for path in segments)
                try:
                    self._check_unchanged(segment, is_there=is_there or sealed)
                    self._read_segment(segment, writes, sealed=sealed)
                except OSError as error:
                    raise unreadable(segment.path, error) from error
            following = self._following(segments)
            if following is None:
                return
            if first_in(following) > self.sequence + 1:
                if segments != list_segments(self._folder):
                    continue  # files were merged while their names were listed
                raise self._missing(following)
            try:
                self._segment, self._offset, self._last = Segment(following), 0, None
            except FileNotFoundError:
                continue  # merged with others just now: list again
            except OSError as error:
                raise unreadable(following, error) from error

    def _following(self, segments: list[Path]) -> Path | None:
        """The file with the next write, or else the next one; None if there is none yet.

        It may have the name of the file that was just read, or an earlier one: files were merged.
        """
        self._check_beginning(segments)
        at = sum(first_in(path) <= self.sequence + 1 for path in segments) - 1
        own = self._segment
        if own is not None and segments and segments[at] == own.path and own.has_its_name():
            at += 1
        return segments[at] if 0 <= at < len(segments) else None

    def _read_segment(self, segment: Segment, writes: list[Write], *, sealed: bool) -> None:
        while self._offset < segment.size:
            try:
                frame = read_frame(segment, self._offset, sealed=sealed)
                if frame is None:
                    return
                header, payload = frame
                records = decode_records(payload, header.count, header.start)
            except ValueError as error:
                raise SnapshotError(
                    f"{segment.path} is damaged at byte {self._offset:,} ({error}): stop what "
                    "serves it and put it back from a copy; to go on without any write that no "
                    f"snapshot has, remove {self._folder}"
                ) from error
            for number, (record, span) in enumerate(records, start=header.first):
                if number > self.sequence:
                    writes.append(Write(number, header.crc, record, segment, span))
                    self.sequence = number
            self._last = self._offset, header
            self._offset = header.end

    def _check_beginning(self, segments: list[Path]) -> None:
        if segments and first_in(segments[0]) > self.sequence + 1:
            raise SnapshotError(
                f"the log {self._folder} begins at write {first_in(segments[0]):,}, but the "
                f"snapshot has the writes up to {self.sequence:,} only: those between are gone; "
                "put the files of the log back, or use a later snapshot"
            )

    def _missing(self, following: Path) -> SnapshotError:
        """A file follows on what was read, but not its first write: a merge keeps the last one."""
        return SnapshotError(
            f"{following} begins at write {first_in(following):,}, but the log before it ends at "
            f"{self.sequence:,}: a file between them is missing, or one was cut short; stop what "
            "serves it and put it back from a copy; to go on without any write that no snapshot "
            f"has, remove {self._folder}"
        )

    def _check_unchanged(self, segment: Segment, *, is_there: bool) -> None:
        """Refuse a log that is not the one that was read: its numbers would mean other writes."""
        whole = self._last is None or read_header(segment, self._last[0]) == self._last[1]
        if not (is_there and whole and segment.size >= self._offset):
            raise SnapshotError(
                f"{segment.path} is not as this process has read it: it was removed, cut short or "
                "put back from a copy meanwhile; restart what reads it"
            )

    @property
    def position(self) -> tuple[Path, int] | None:
        """The file that is read now and the end of its last whole frame."""
        return None if self._segment is None else (self._segment.path, self._offset)

    @property
    def unread(self) -> int:
        """Bytes behind it: what is being appended just now, or what a crash left."""
        return 0 if self._segment is None else self._segment.size - self._offset

    def last_frame(self) -> tuple[int, bytes] | None:
        """Where the last whole frame of that file begins, and its bytes; None if it has none."""
        if self._segment is None or self._last is None:
            return None
        offset, header = self._last
        return offset, self._segment.read(offset, header.end - offset)


def first_write(root: Path) -> int:
    """The number of the first write that the log may still have; 1 if there is no log."""
    segments = list_segments(root / FOLDER)
    return first_in(segments[0]) if segments else 1


def last_write(root: Path, after: int) -> int:
    """The number of the last write in the log; `after`, which is a lower bound, if there is none.

    Raises:
        SnapshotError: the log is damaged.
    """
    segments = list_segments(root / FOLDER)
    if not segments:
        return after
    reader = LogReader(root, max(after, first_in(segments[-1]) - 1))
    reader.read()
    return reader.sequence


class LogWriter:
    """The right to append to a log, held until it is closed; a context manager.

    Args:
        root: the folder of all snapshots.
        timeout: seconds to wait for another writer.

    Raises:
        WriteError: another writer holds it for longer (`write_busy`), or the folder cannot be
            written to (`write_failed`).
    """

    def __init__(self, root: Path, timeout: float = LOCK_SECONDS) -> None:
        self._folder = root / FOLDER
        try:
            self._folder.mkdir(exist_ok=True)
            self._lock = (self._folder / ".lock").open("w")
        except OSError as error:
            raise write_failed(self._folder, error) from error
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self._lock.close()
                    raise WriteError(
                        "other writes are in the way: send it again in a moment",
                        code="write_busy",
                    ) from None
                time.sleep(0.005)
            except OSError as error:  # there are no locks
                self._lock.close()
                raise write_failed(self._folder, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()  # and the lock goes with it

    def append(self, reader: LogReader, records: Sequence[Put | Delete]) -> None:
        """Write records as one frame; when this returns they would survive a power cut.

        Args:
            reader: has read the log to its end since the lock was taken, without an error: what it
                has not read by then is what a crash left.
            records: in order.

        Raises:
            WriteError: the disk is full or fails. What the reader has seen stands; the records may
                be there later or not.
        """
        frame = encode_frame(reader.sequence + 1, [encode_record(record) for record in records])
        try:
            path, offset = reader.position or (self.rotate(reader), 0)
            with path.open("r+b", buffering=0) as file:
                self._mend(file, reader)
                file.seek(offset)
                crash_point("append-before")
                _write(file.fileno(), frame[: len(frame) // 2])
                crash_point("append-half")
                try:
                    _write(file.fileno(), frame[len(frame) // 2 :])
                except OSError:
                    file.truncate(offset)  # no reader takes a frame that is not whole
                    raise
                crash_point("append-unsynced")
                self._sync(file)
                if offset == 0:
                    self._sync_names()  # whoever began the file may have died before, or be at it
                crash_point("append-synced")
        except OSError as error:
            raise write_failed(self._folder, error) from error

    def rotate(self, reader: LogReader) -> Path:
        """Begin a new file, after which the others are never written to again."""
        path = self._folder / segment_name(reader.sequence + 1)
        try:
            if reader.position is not None:
                with reader.position[0].open("r+b", buffering=0) as file:
                    self._mend(file, reader)
                    self._sync(file)  # who wrote last may have died before it did
            with path.open("ab") as begun:
                os.fsync(begun.fileno())
            self._sync_names()
        except OSError as error:
            raise write_failed(self._folder, error) from error
        return path

    def _sync_names(self) -> None:
        """Return when a power cut would take neither the files' names nor the folder's."""
        sync_folder(self._folder)
        sync_folder(self._folder.parent)

    def _mend(self, file: io.FileIO, reader: LogReader) -> None:
        """Cut off what a crash left in the reader's file, and store what could not be synced."""
        end = 0 if reader.position is None else reader.position[1]
        torn = os.fstat(file.fileno()).st_size - end
        if torn:
            _logger.warning("%s: cutting off %d bytes that a crash left", file.name, torn)
            file.truncate(end)
            os.fsync(file.fileno())  # before anything is written, or it may stand behind that again
        marker = self._folder / UNSYNCED
        if not marker.exists():
            return
        frame = reader.last_frame()
        if frame is not None:
            offset, data = frame
            file.seek(offset)
            _write(file.fileno(), data)
        self._sync(file)
        marker.unlink()

    def _sync(self, file: io.FileIO) -> None:
        """Sync a file; if that fails, have the next writer write the last frame anew.

        The system takes for stored what it could not store, and would not try that again. Readers
        may have seen the frame, so it is not cut off.
        """
        try:
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):  # where nothing can be made, nothing is appended
                (self._folder / UNSYNCED).touch()
            raise


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def write_failed(folder: Path, error: OSError) -> WriteError:
    """What a failing disk means for whoever writes."""
    return WriteError(
        f"the write could not be stored in {folder} ({error.strerror or error}): see that the "
        "disk has room and may be written to, then send it again",
        code="write_failed",
        public=f"the write could not be stored ({error.strerror or 'the disk failed'}): whoever "
        "runs the service must see to its disk; then send it again",
    )
