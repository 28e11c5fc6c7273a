from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from index.snapshot import Snapshot
from index.snapshot_folder import (
    current,
    hold,
    list_snapshots,
    locate,
    locked,
    make_current,
    next_name,
    previous,
    prune,
    publish,
    remove_parts,
)
from model.errors import SnapshotError


def _publish(root: Path, text: str = "x") -> str:
    part = root / ".building-abc"
    part.mkdir(parents=True)
    (part / "file").write_text(text)
    name = next_name(root)
    publish(root, part, name)
    return name


def test_names_count_up_and_the_last_one_is_current(tmp_path: Path) -> None:
    assert list_snapshots(tmp_path / "none") == []
    assert [_publish(tmp_path, text) for text in "abc"] == ["00000001", "00000002", "00000003"]
    assert current(tmp_path) == "00000003"
    (tmp_path / "00000004").touch()  # no folder, so no snapshot
    assert list_snapshots(tmp_path) == ["00000001", "00000002", "00000003"]
    assert (locate(tmp_path) / "file").read_text() == "c"
    assert not (tmp_path / ".building-abc").exists()


def test_the_name_of_a_current_one_that_was_removed_is_not_given_again(tmp_path: Path) -> None:
    for text in "ab":
        _publish(tmp_path, text)
    shutil.rmtree(tmp_path / "00000002")
    assert _publish(tmp_path) == current(tmp_path) == "00000003"
    shutil.rmtree(tmp_path / "00000003")
    (tmp_path / "CURRENT").write_text("junk")
    assert _publish(tmp_path) == current(tmp_path) == "00000002"


def test_a_snapshot_gets_its_name_once_it_is_stored_and_is_served_once_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def noted(handle: int) -> None:
        fsync(handle)
        synced.add(os.fstat(handle).st_ino)

    def look(point: str) -> None:
        part = tmp_path / ".building-abc"
        expected = {
            "publish-synced": [part, *part.iterdir()] if part.is_dir() else [],
            "publish-renamed": [tmp_path],
            "publish-current": [tmp_path / "CURRENT", tmp_path],
        }[point]
        assert {path.stat().st_ino for path in expected} == synced
        synced.clear()

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr("index.snapshot_folder.crash_point", look)
    _publish(tmp_path)


def test_an_older_one_can_be_made_current_again(tmp_path: Path) -> None:
    _publish(tmp_path)
    _publish(tmp_path)
    make_current(tmp_path, "00000001")
    assert locate(tmp_path).name == "00000001"
    assert next_name(tmp_path) == "00000003"
    with pytest.raises(SnapshotError, match="choose one of 00000001, 00000002"):
        make_current(tmp_path, "00000007")
    assert current(tmp_path) == "00000001"


def test_a_name_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    _publish(tmp_path)
    (tmp_path.parent / "00000005").mkdir(exist_ok=True)
    for name in ("../00000005", ".", "", "1", str(tmp_path), "00000001/"):
        with pytest.raises(SnapshotError, match="there is no snapshot"):
            locate(tmp_path, name)


def test_nothing_published(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(SnapshotError, match="make one with `fashionbert index build`"):
            Snapshot.open(root)


def test_a_damaged_current(tmp_path: Path) -> None:
    _publish(tmp_path)
    for text in ("", "../../etc", "\u00e9"):
        (tmp_path / "CURRENT").write_text(text)
        with pytest.raises(SnapshotError, match="CURRENT"):
            current(tmp_path)
    (tmp_path / "CURRENT").write_text("00000008\n")
    with pytest.raises(SnapshotError, match="choose one of 00000001"):
        locate(tmp_path)


def test_a_folder_without_a_manifest_is_no_snapshot(tmp_path: Path) -> None:
    _publish(tmp_path)
    with pytest.raises(SnapshotError, match=r"is no snapshot \(manifest\.json"):
        Snapshot.open(tmp_path)


def test_a_folder_that_the_disk_does_not_give_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for one without snapshots."""
    _publish(tmp_path)

    def fail(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(SnapshotError, match="cannot be read: Input/output error"):
        list_snapshots(tmp_path)


def test_what_cannot_be_published_is_said_and_the_old_one_stays(tmp_path: Path) -> None:
    _publish(tmp_path)
    with pytest.raises(SnapshotError, match=r"no snapshot '00000002'.*choose one of 00000001"):
        make_current(tmp_path, "00000002")
    assert current(tmp_path) == "00000001"
    (tmp_path / "CURRENT").unlink()
    (tmp_path / "CURRENT").mkdir()  # which no file can take the place of
    with pytest.raises(SnapshotError, match="00000001 cannot be made the current one"):
        make_current(tmp_path, "00000001")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["00000001", "CURRENT"]
    with pytest.raises(SnapshotError, match="CURRENT cannot be read"):
        current(tmp_path)


def test_only_one_may_build_and_the_lock_goes_with_its_holder(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(SnapshotError, match="another build, compaction or pruning is running"),
        locked(tmp_path),
    ):
        pass
    reading, writing = os.pipe()
    child = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", 'exec 9>"$0"; flock -n 9 && echo locked; kill -9 $$', str(tmp_path / ".lock")],
        {"PATH": os.environ["PATH"]},
        file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
    )
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "locked\n"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_what_is_read_is_kept_on_nfs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which gives an exclusive lock to who may write to the file alone (flock(2))."""
    flock = fcntl.flock

    def of_nfs(file: Any, operation: int) -> None:
        handle = file if isinstance(file, int) else file.fileno()
        reads_only = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        is_file = stat.S_ISREG(os.fstat(handle).st_mode)
        if is_file and reads_only and operation & fcntl.LOCK_EX:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    for _ in range(3):
        (locate(tmp_path, _publish(tmp_path)) / "manifest.json").touch()
    reader = hold(tmp_path / "00000001")
    assert prune(tmp_path, 1) == (["00000002"], ["00000001"])
    os.close(reader)
    assert prune(tmp_path, 1) == (["00000001"], [])


def _go_back(root: Path) -> str:
    make_current(root, previous(root))
    return current(root)


def test_a_rollback_does_not_lead_to_what_was_gone_back_from(tmp_path: Path) -> None:
    for _ in range(3):
        _publish(tmp_path)
    assert _go_back(tmp_path) == "00000002"
    assert _publish(tmp_path) == "00000004"
    assert _go_back(tmp_path) == "00000002"
    assert _go_back(tmp_path) == "00000001"
    with pytest.raises(SnapshotError, match="no snapshot before 00000001"):
        previous(tmp_path)
    make_current(tmp_path, "00000003")
    assert previous(tmp_path) == "00000002"


@pytest.mark.parametrize("said", [None, b"", b"\xff", b"00000009x"])
def test_a_rollback_from_an_older_versions_snapshot_leads_to_the_next_lower_number(
    tmp_path: Path, said: bytes | None
) -> None:
    for _ in range(3):
        _publish(tmp_path)
    file = tmp_path / "00000003" / "previous"
    if said is None:
        file.unlink()
    else:
        file.write_bytes(said)
    assert previous(tmp_path) == "00000002"


def test_what_a_rollback_goes_to_is_pruned_last(tmp_path: Path) -> None:
    for _ in range(2):
        _publish(tmp_path)
    _go_back(tmp_path)
    assert _publish(tmp_path) == "00000003"
    assert prune(tmp_path, 2) == (["00000002"], [])
    assert previous(tmp_path) == "00000001"
    _publish(tmp_path)
    _go_back(tmp_path)
    # Three is the way back, and four what a publish could go forward to again.
    assert (current(tmp_path), list_snapshots(tmp_path)[-1]) == ("00000003", "00000004")
    assert prune(tmp_path, 2) == (["00000004"], [])
    assert prune(tmp_path, 1) == (["00000001"], [])
    with pytest.raises(SnapshotError, match="they were pruned"):
        previous(tmp_path)


def test_a_rollback_past_a_pruned_one_leads_to_what_was_there_before_it(tmp_path: Path) -> None:
    for _ in range(3):
        _publish(tmp_path)
    shutil.rmtree(tmp_path / "00000002")
    assert previous(tmp_path) == "00000001"


def test_what_unfinished_builds_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    _publish(tmp_path)
    (tmp_path / ".building-1").mkdir()
    (tmp_path / ".building-1" / "file").write_text("x")
    (tmp_path / ".building-1.json").write_text("{}")
    remove_parts(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["00000001", "CURRENT"]
