"""The folder that snapshots live in: numbered folders, and `CURRENT`, which names one of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from model.errors import SnapshotError
from model.files import sync_folder, write_atomically

_NAME = re.compile(r"[0-9]{8}")
BUILDING = ".building-"


def list_snapshots(root: Path) -> list[str]:
    """Names of the published snapshots, oldest first; empty if there is no such folder."""
    if not root.is_dir():
        return []
    return sorted(
        entry.name for entry in root.iterdir() if _NAME.fullmatch(entry.name) and entry.is_dir()
    )


def locate(root: Path, name: str | None = None) -> Path:
    """The folder of a snapshot, of the current one without a name.

    Raises:
        SnapshotError: there is none, or `name` is not a snapshot's name.
    """
    if name is None:
        name = current(root)
    if not _NAME.fullmatch(name) or not (root / name).is_dir():
        there = list_snapshots(root)
        raise SnapshotError(
            f"there is no snapshot {name!r} in {root}: "
            + (f"choose one of {', '.join(there)}" if there else _build_one(root))
        )
    return root / name


def current(root: Path) -> str:
    """The name in `CURRENT`.

    Raises:
        SnapshotError: nothing was published here, or the file is damaged.
    """
    path = root / "CURRENT"
    try:
        name = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise SnapshotError(f"there is no snapshot in {root}: {_build_one(root)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SnapshotError(f"{path} cannot be read ({error}): {_build_one(root)}") from error
    if not _NAME.fullmatch(name):
        raise SnapshotError(
            f"{path} holds {name[:40]!r}, which is no snapshot's name: write one of "
            f"{', '.join(list_snapshots(root)) or 'none'} into it"
        )
    return name


def _build_one(root: Path) -> str:
    return f"make one with `fashionbert index build` into {root}"


def set_current(root: Path, name: str) -> None:
    """Serve a snapshot: a reader sees the old name or this one.

    Raises:
        SnapshotError: there is no such snapshot.
    """
    locate(root, name)
    write_atomically(root / "CURRENT", f"{name}\n".encode())


def next_name(root: Path) -> str:
    """The name after the newest snapshot's."""
    return f"{int((list_snapshots(root) or ['0'])[-1]) + 1:08d}"


def publish(root: Path, part: Path, name: str) -> None:
    """Give a finished folder its name and serve it. What it holds is synced first."""
    for file in part.iterdir():
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    sync_folder(part)
    os.rename(part, root / name)
    sync_folder(root)
    set_current(root, name)


def remove_parts(root: Path) -> None:
    """Remove what unfinished builds left."""
    for entry in root.glob(f"{BUILDING}*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Make the folder if need be, and be the only one who builds in it.

    The lock goes with the process, however it ends.

    Raises:
        SnapshotError: someone else builds here.
    """
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SnapshotError(
                f"another build is running in {root}: wait for it, or build into another folder"
            ) from None
        yield
