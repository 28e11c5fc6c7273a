"""Files that are either whole or not there."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# linux/fs.h and fcntl.h
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


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


def replace_folder(part: Path, folder: Path, old: Path) -> None:
    """Put a folder where another may stand, which is deleted then.

    The two swap names in one step where the file system can: whoever opens `folder` finds one or
    the other at any time, also after a crash. Elsewhere a crash between two renames leaves the
    older one at `old`.

    Args:
        part: the new folder, synced (`sync_tree`); beside `folder`.
        folder: its place.
        old: a free name beside `folder`, for the older one until it is deleted.

    Raises:
        OSError: the folders cannot be renamed; the older one stands where it stood.
    """
    if not folder.exists():
        os.rename(part, folder)
    elif exchange(part, folder):
        os.rename(part, old)
    else:
        os.rename(folder, old)
        try:
            os.rename(part, folder)
        except OSError:
            os.rename(old, folder)
            raise
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step: Linux's renameat2 with RENAME_EXCHANGE.

    Returns:
        Whether that was done. Not where the C library, the kernel or the file system (NFS, say)
        cannot, nor where the folders may not be renamed; then all is as it was.
    """
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    paths = os.fsencode(one), os.fsencode(other)
    failed: int = renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    return not failed


def write_atomically(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Replace a file: a reader sees the old content or the new one, also after a crash.

    Args:
        path: the file.
        data: all of it, or its parts one after the other.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_atomically` for readable JSON."""
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
