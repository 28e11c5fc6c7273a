"""Files of the log of writes and the frames in them: see `index.delta_log`."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import SnapshotError

FOLDER = "delta"

_NAME = re.compile(r"[0-9]{12}\.log")
_MAGIC = b"FBD1"
_HEADER = struct.Struct("<4sIQII")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CRC.size


class Segment:
    """One file of the log, open for reading. It can be read on after its name is gone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first = int(path.stem) if _NAME.fullmatch(path.name) else 0
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def size(self) -> int:
        """Bytes that are there now."""
        return os.fstat(self._file).st_size

    def has_its_name(self) -> bool:
        """Whether this is the file that its name leads to: it was not merged or put back since."""
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from a position; fewer where the file ends. Safe from several threads."""
        parts = []
        while length:
            part = os.pread(self._file, length, offset)
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before a frame's payload, which goes from `start` to `end` in the file.

    It holds `count` writes, numbered on from `first`; `crc` is its CRC-32.
    """

    start: int
    end: int
    first: int
    count: int
    crc: int


def encode_frame(first: int, records: Sequence[bytes]) -> bytes:
    """A frame of encoded records, which are numbered on from `first`."""
    payload = b"".join(records)
    header = _HEADER.pack(_MAGIC, len(payload), first, len(records), zlib.crc32(payload))
    return header + _CRC.pack(zlib.crc32(header)) + payload


def read_header(segment: Segment, offset: int) -> Header | None:
    """The header at a position; None if there is no whole one."""
    data = segment.read(offset, _HEADER_BYTES)
    if len(data) < _HEADER_BYTES:
        return None
    header = data[: _HEADER.size]
    if not header.startswith(_MAGIC) or _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(
        header
    ):
        return None
    _, length, first, count, crc = _HEADER.unpack(header)
    start = offset + _HEADER_BYTES
    return Header(start, start + length, first, count, crc)


def read_frame(segment: Segment, offset: int, *, sealed: bool) -> tuple[Header, bytes] | None:
    """The frame at a position; None if it is being written just now, or was torn by a crash.

    Args:
        segment: the file.
        offset: where the frame begins.
        sealed: nothing more is written to the file.

    Raises:
        ValueError: it is damaged: it is not whole, and was when what comes after it was written.
    """
    for _ in range(2):
        header = read_header(segment, offset)
        payload = None if header is None else _read_payload(segment, header)
        if header is not None and payload is not None:
            return header, payload
        if not sealed and not _written_behind(segment, offset, header):
            return None
        # Once more: it may have been completed, and the next one begun, between the two looks.
    raise ValueError("a frame is not whole")


def _read_payload(segment: Segment, header: Header) -> bytes | None:
    payload = segment.read(header.start, header.end - header.start)
    whole = len(payload) == header.end - header.start and zlib.crc32(payload) == header.crc
    return payload if whole else None


def _written_behind(segment: Segment, offset: int, header: Header | None) -> bool:
    """Whether a frame was begun after the one at a position, which is not whole."""
    if header is not None:
        # What is inside is not looked at: a picture may hold anything, the bytes of a header too.
        return segment.size > header.end
    data = segment.read(offset, max(0, segment.size - offset))
    at = data.find(_MAGIC, 1)
    while at >= 0:
        if read_header(segment, offset + at) is not None:
            return True
        at = data.find(_MAGIC, at + 1)
    return False


def list_segments(folder: Path) -> list[Path]:
    """The files of the log, oldest first.

    Raises:
        SnapshotError: the folder cannot be read.
    """
    try:
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except OSError as error:
        raise unreadable(folder, error) from error


def unreadable(path: Path, error: OSError) -> SnapshotError:
    """What a disk that fails, or that this user may not read, means for whoever reads the log."""
    return SnapshotError(
        f"{path} cannot be read: {error.strerror or error}; let this user read it, or put it back "
        "from a copy"
    )


def first_in(path: Path) -> int:
    """The number of the first write that a file of the log may have."""
    return int(path.stem)


def segment_name(first: int) -> str:
    """The name of the file whose first write has this number."""
    return f"{first:012d}.log"
