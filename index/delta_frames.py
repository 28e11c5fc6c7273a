"""Files of the log of writes and the frames in them: see `index.delta_log`."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    """What stands before a frame's payload, which goes from `start` to `end` in the file."""

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


def read_payload(segment: Segment, header: Header) -> bytes | None:
    """The payload that belongs to a header; None if it is not whole."""
    payload = segment.read(header.start, header.end - header.start)
    whole = len(payload) == header.end - header.start and zlib.crc32(payload) == header.crc
    return payload if whole else None


def written_behind(segment: Segment, offset: int) -> bool:
    """Whether a frame was begun after the one at a position, which is not whole."""
    header = read_header(segment, offset)
    if header is not None:
        # Only there: a picture inside may hold anything, the bytes of a header too.
        return read_header(segment, header.end) is not None
    data = segment.read(offset, max(0, segment.size - offset))
    at = data.find(_MAGIC, 1)
    while at >= 0:
        if read_header(segment, offset + at) is not None:
            return True
        at = data.find(_MAGIC, at + 1)
    return False


def list_segments(folder: Path) -> list[Path]:
    """The files of the log, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def segment_name(first: int) -> str:
    """The name of the file whose first write has this number."""
    return f"{first:012d}.log"
