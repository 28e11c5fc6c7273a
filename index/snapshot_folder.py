"""The folder that snapshots live in: numbered folders, and `CURRENT`, which names one of them.

Each holds a file `previous`, which names the one that was current when it was published: a rollback
goes there, and not to the next lower number, which may be what was gone back from before.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from index.faults import crash_point
from model.errors import SnapshotError
from model.files import sync_folder, sync_tree, write_atomically

_NAME = re.compile(r"[0-9]{8}")
BUILDING = ".building-"
COMPACTING = ".compacting-"
_REMOVING = ".removing-"
_PREVIOUS = "previous"


def list_snapshots(root: Path) -> list[str]:
    """Names of the published snapshots, oldest first; empty if there is no such folder.

    Raises:
        SnapshotError: the folder cannot be read.
    """
    try:
        if not root.is_dir():
            return []
        return sorted(
            entry.name for entry in root.iterdir() if _NAME.fullmatch(entry.name) and entry.is_dir()
        )
    except OSError as error:
        raise _unreadable(root, error) from error


def locate(root: Path, name: str | None = None) -> Path:
    """The folder of a snapshot, of the current one without a name.

    Raises:
        SnapshotError: there is none, or `name` is not a snapshot's name.
    """
    if name is None:
        name = current(root)
    try:
        found = _NAME.fullmatch(name) is not None and (root / name).is_dir()
    except OSError as error:
        raise _unreadable(root / name, error) from error
    if not found:
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
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise SnapshotError(f"{path} cannot be read ({error}): {_build_one(root)}") from error
    if not _NAME.fullmatch(name):
        raise SnapshotError(
            f"{path} holds {name[:40]!r}, which is no snapshot's name: write one of "
            f"{', '.join(list_snapshots(root)) or 'none'} into it"
        )
    return name


def _build_one(root: Path) -> str:
    return f"make one with `fashionbert index build` into {root}"


def _unreadable(path: Path, error: OSError) -> SnapshotError:
    return SnapshotError(
        f"{path} cannot be read: {error.strerror or error}; give the folder of the snapshots, and "
        "let this user read it"
    )


def next_name(root: Path) -> str:
    """The name after the newest snapshot's, and after the one in `CURRENT` though it be gone.

    A service that has opened that one knows snapshots by their names, and so do stored answers.
    """
    names = list_snapshots(root)
    with contextlib.suppress(SnapshotError):
        names.append(current(root))
    return f"{int(max(names, default='0')) + 1:08d}"


def publish(root: Path, part: Path, name: str, *, instead_of: str | None = None) -> None:
    """Give a finished folder its name and serve it. What it holds is synced first.

    Args:
        root: the folder of all snapshots.
        part: the finished folder, inside it.
        name: the snapshot's.
        instead_of: serve it only if this one still is.

    Raises:
        SnapshotError: another one is served by now; the folder has no name.
    """
    sync_tree(part)
    crash_point("publish-synced")
    with _switching(root):
        # Before it has a name, so that it is not kept.
        if instead_of is not None and (now := current(root)) != instead_of:
            raise SnapshotError(
                f"the new snapshot was made from {instead_of}, but {now} was published meanwhile, "
                "so it is not kept: start again"
            )
        with contextlib.suppress(SnapshotError):  # the first has none before it
            write_atomically(part / _PREVIOUS, f"{current(root)}\n".encode())
        os.rename(part, root / name)
        sync_folder(root)
        crash_point("publish-renamed")
        _set_current(root, name)
    crash_point("publish-current")


def make_current(root: Path, name: str) -> None:
    """Serve a snapshot that is there: a reader sees the old name or this one.

    Raises:
        SnapshotError: there is no such snapshot, or the folder cannot be written to.
    """
    try:
        with _switching(root):
            _set_current(root, name)
    except OSError as error:
        raise SnapshotError(
            f"snapshot {name} cannot be made the current one of {root}: "
            f"{error.strerror or error}; start again once that is mended"
        ) from error


def previous(root: Path) -> str:
    """The snapshot that was current before the current one was published.

    Raises:
        SnapshotError: there is none.
    """
    now = current(root)
    before = _before(root, now)
    if before is None:
        raise SnapshotError(
            f"there is no snapshot before {now} in {root} to go back to: "
            "they were pruned, or it is the first"
        )
    return before


def _before(root: Path, name: str) -> str | None:
    """The snapshot that was current when this one was published, or the newest before that if it is
    gone; the newest before this one if nothing says which it was."""
    older = [one for one in list_snapshots(root) if one < name]
    try:
        before = (root / name / _PREVIOUS).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        before = ""
    if _NAME.fullmatch(before):
        older = [one for one in older if one <= before]
    return older[-1] if older else None


def _ways_back(root: Path, name: str) -> list[str]:
    """The snapshots that one rollback after the other leads to, from this one on."""
    ways = []
    before = _before(root, name)
    while before is not None:
        ways.append(before)
        before = _before(root, before)
    return ways


def _set_current(root: Path, name: str) -> None:
    """Write `CURRENT`; to be called while `_switching`."""
    locate(root, name)
    write_atomically(root / "CURRENT", f"{name}\n".encode())


@contextlib.contextmanager
def _switching(root: Path) -> Iterator[None]:
    """Be the only one who changes which snapshot is current."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def hold(path: Path) -> int:
    """Say that a snapshot is being read, so that it is not pruned, until the handle is closed.

    Raises:
        SnapshotError: it was pruned.
    """
    try:
        handle = os.open(path / "manifest.json", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SnapshotError(
            f"{path} is not there any more ({error.strerror}): open the current snapshot"
        ) from error
    # Where the file system knows no locks, readers are not protected, and need not be: what they
    # have opened stays readable.
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return handle


def _in_use(path: Path) -> bool:
    try:
        # To be written to, as NFS locks no other file exclusively.
        with (path / "manifest.json").open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter cannot tell
        return True
    except OSError:
        return False  # half of it is gone, or there are no locks
    return False


def prune(root: Path, keep: int) -> tuple[list[str], list[str]]:
    """Remove snapshots, but the current one, those before it, and the newest others, `keep`
    together.

    To be called with the folder locked.

    Returns:
        The names of those removed, and of those left because someone reads them.

    Raises:
        SnapshotError: `keep` is below 1, or nothing was published here.
    """
    if keep < 1:
        raise SnapshotError(f"keep is {keep}: at least the current snapshot stays, so 1 or more")
    removed, in_use = [], []
    with _switching(root):  # or one that is to go could become the current one
        now = current(root)
        ways = _ways_back(root, now)
        others = [name for name in reversed(list_snapshots(root)) if name not in (now, *ways)]
        for name in [*ways, *others][keep - 1 :]:
            if _in_use(root / name):
                in_use.append(name)
                continue
            # Renamed first: a reader sees the whole of it or nothing.
            os.rename(root / name, root / f"{_REMOVING}{name}")
            crash_point("prune-renamed")
            removed.append(name)
    remove_leftovers(root)
    return sorted(removed), sorted(in_use)


def remove_leftovers(root: Path) -> None:
    """Remove what a killed compaction or pruning left; to be called with the folder locked."""
    for prefix in (COMPACTING, _REMOVING):
        for entry in root.glob(f"{prefix}*"):
            shutil.rmtree(entry, ignore_errors=True)


def remove_parts(root: Path) -> None:
    """Remove what unfinished builds left, the half of a record that was being written included."""
    for entry in (*root.glob(f"{BUILDING}*"), *root.glob(f".{BUILDING}*.tmp")):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Be the only one who builds, compacts or prunes in the folder, which is there.

    The lock goes with the process, however it ends.

    Raises:
        SnapshotError: someone else does.
        OSError: there is no such folder, or it cannot be written to.
    """
    with (root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SnapshotError(
                f"another build, compaction or pruning is running in {root}: wait for its end, or "
                "give another folder"
            ) from None
        yield
