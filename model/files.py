"""Files that are either whole or not there."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Make all that is in a folder durable, so that it may take the place of an older one."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def take_lock(path: Path, *, wait: bool = False) -> int:
    """Lock a file, made if need be, until the handle is closed or the process has ended.

    Where the file system knows no locks, nobody is kept out.

    Args:
        path: the file; nothing is written to it.
        wait: until whoever has the lock lets go.

    Raises:
        BlockingIOError: somebody else has it, and there was to be no waiting.
        OSError: the file cannot be made.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, KeyboardInterrupt):
        os.close(handle)
        raise
    except OSError:  # there are no locks
        pass
    return handle


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file: a reader sees the old content or the new one, also after a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` for readable JSON."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
