"""How many scans a JPEG has.

A progressive JPEG is decoded scan by scan, each over all of its pixels, and a scan that changes
nothing takes 60 bytes: a small file can keep a decoder busy for minutes. What cameras and programs
write has a dozen (ISO/IEC 10918-1, B.1.1 and B.2).
"""

from __future__ import annotations

import re

_SCAN, _END = 0xDA, 0xD9
#: Markers without a length behind them: TEM, RST0 to RST7, SOI.
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
#: What ends a scan's data: a marker that is no stuffed byte, restart or fill.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def count_scans(data: bytes) -> int:
    """Scans up to the end of the picture, or to where the file makes no sense."""
    scans, at = 0, 0
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = data[found.end() - 1], found.end()
        if marker == _END:
            break
        if marker in _BARE:
            continue
        scans += marker == _SCAN
        at += int.from_bytes(data[at : at + 2], "big")
    return scans
