"""Keeping the log of writes short: of each product the last write is enough."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from index.delta_frames import FOLDER, encode_frame, first_in, list_segments, segment_name
from index.delta_log import LogReader, Write, first_write, write_failed
from index.faults import crash_point
from model.files import sync_folder


def verify_log(root: Path, folded: int | None = None) -> tuple[list[Write], int]:
    """Read the whole log.

    Args:
        root: the folder of all snapshots.
        folded: of a snapshot, the last write that it has: none after it may be missing.

    Returns:
        Its writes, and the bytes at its end that are no whole one: it is being stored just now, or
        was not answered for when a crash tore it.

    Raises:
        SnapshotError: it is damaged, cannot be read, or begins later than right after `folded`.
    """
    first = first_write(root) - 1
    reader = LogReader(root, first if folded is None else min(first, folded))
    return reader.read(), reader.unread


def merge_segments(root: Path, after: int) -> int:
    """Merge the files that are not written to any more; of each product the last write is kept.

    Readers may go on meanwhile, but no second merge may.

    Args:
        root: the folder of all snapshots.
        after: writes up to this one are dropped: no snapshot that is left wants them.

    Returns:
        How many bytes the log has lost.

    Raises:
        SnapshotError: the log is damaged, in whichever file; nothing was changed.
        WriteError: the disk is full or fails; the log is as it was.
    """
    folder = root / FOLDER
    *sealed, active = list_segments(folder) or [folder]
    if not sealed:
        return 0
    first = first_in(sealed[0])
    writes = [write for write in LogReader(root, first - 1).read() if write.segment.path in sealed]
    last = {write.record.id: write for write in writes if write.sequence > after}
    if len(last) == len(writes):
        return 0
    before = sum(path.stat().st_size for path in sealed)
    temporary = folder / ".merging"
    try:
        with temporary.open("wb") as file:
            for write in sorted(last.values(), key=lambda write: write.sequence):
                record = write.segment.read(write.span.offset, write.span.length)
                file.write(encode_frame(write.sequence, [record]))
            file.flush()
            os.fsync(file.fileno())
        size = temporary.stat().st_size
        crash_point("merge-written")
        target = folder / segment_name(max(first, after + 1))
        if target < active:
            os.replace(temporary, target)
            sync_folder(folder)
        else:  # nothing of them is wanted
            temporary.unlink()
        crash_point("merge-replaced")
        for path in sealed:
            if path != target:
                path.unlink()
                crash_point("merge-unlinked")
        sync_folder(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)  # a full disk needs its room
        raise write_failed(folder, error) from error
    return before - size
