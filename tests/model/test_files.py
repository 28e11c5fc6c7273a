from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from model import files
from model.files import (
    exchange,
    replace_folder,
    sha256_of,
    sync_folder,
    sync_tree,
    take_lock,
    write_atomically,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["swapped", "renamed"])
def replacing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a folder is replaced: at once, or as on a file system that cannot do that."""
    if request.param == "renamed":
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    return str(request.param)


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """A new folder, one in its place, and a free name."""
    for name in ("new", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    return [tmp_path / name for name in ("new", "place", "old")]


@pytest.mark.usefixtures("replacing")
def test_a_folder_takes_the_place_of_another(folders: list[Path]) -> None:
    new, place, _ = folders
    replace_folder(*folders)
    assert names(place) == ["new"]
    assert names(place.parent) == ["place"]
    place.rename(new)
    replace_folder(*folders)
    assert names(place) == ["new"]
    assert names(place.parent) == ["place"]


def test_a_place_is_never_empty(
    replacing: str, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    there: list[bool] = []
    rename = os.rename

    def renamed(source: Path, target: Path) -> None:
        rename(source, target)
        there.append(folders[1].exists())

    monkeypatch.setattr(os, "rename", renamed)
    replace_folder(*folders)
    assert there == ([True] if replacing == "swapped" else [False, True])


def test_the_older_folder_comes_back(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    new, place, _ = folders
    rename = os.rename

    def renamed(source: Path, target: Path) -> None:
        if source == new:
            raise OSError("refused")
        rename(source, target)

    monkeypatch.setattr(files, "exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", renamed)
    with pytest.raises(OSError, match="refused"):
        replace_folder(*folders)
    assert names(place) == ["place"]
    assert names(place.parent) == ["new", "place"]


def test_what_cannot_be_swapped_stays(folders: list[Path]) -> None:
    new, place, absent = folders
    assert not exchange(new, absent)
    assert names(place.parent) == ["new", "place"]
    assert exchange(new, place)
    assert names(place) == ["new"]
    assert names(new) == ["place"]


def test_files_are_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"old", b"", b"new" * 100_000):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert names(tmp_path) == ["file"]


def test_a_disk_that_is_full_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    code = """
import pathlib, resource, sys
from model.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    write_atomically(pathlib.Path(sys.argv[1]), b"new" * 5000)
except OSError as error:
    print(type(error).__name__, error.errno)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("OSError")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_what_stands_in_the_way_stays_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inside").write_text("kept")
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "file", b"new")
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file" / "inside").read_text() == "kept"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "file", b"new")
    assert names(tmp_path) == []


def test_a_link_is_replaced_and_what_it_named_is_not(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"kept")
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").read_bytes() == b"new"
    assert (tmp_path / "target").read_bytes() == b"kept"


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 50_000 for number in range(4)]
    write_atomically(path, contents[0])
    seen: set[bytes] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(40):
            write_atomically(path, contents[number % 4])
    finally:
        done.set()
        reader.join()
    assert seen
    assert seen <= set(contents)


@pytest.mark.parametrize("data", [b"", b"abc", bytes(3_000_001)])
def test_the_checksum_is_sha256(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_json_is_readable_and_in_utf8(tmp_path: Path) -> None:
    value = {"title": "Kleid für den Sommer ✓", "ranks": [1, 2.5, None, True]}
    write_json(tmp_path / "file.json", value)
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "für den Sommer ✓" in text
    assert text.startswith('{\n  "title"')
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [{"set": {1}}, {"half": "\ud800"}])
def test_what_is_no_json_leaves_the_old_content(tmp_path: Path, value: object) -> None:
    path = tmp_path / "file.json"
    write_json(path, 1)
    with pytest.raises((TypeError, UnicodeEncodeError)):
        write_json(path, value)
    assert path.read_text() == "1\n"
    assert names(tmp_path) == ["file.json"]


def test_only_folders_that_are_there_are_synced(tmp_path: Path) -> None:
    sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "none")


def test_all_of_a_folder_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    paths = [tmp_path / "one", tmp_path / "a" / ".two", tmp_path / "a" / "b" / "three"]
    for path in paths:
        path.write_bytes(b"new")
    synced = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        fsync(handle)
        synced.append(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    sync_tree(tmp_path)
    paths += [tmp_path / "a", tmp_path / "a" / "b", tmp_path]
    assert sorted(synced) == sorted(path.stat().st_ino for path in paths)


def test_a_lock_is_one_process_alone(tmp_path: Path) -> None:
    code = """
import pathlib, sys
from model.files import take_lock
try:
    take_lock(pathlib.Path(sys.argv[1]))
except BlockingIOError:
    print("taken")
"""

    def another() -> str:
        return subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "lock")],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    handle = take_lock(tmp_path / "lock")
    assert another() == "taken\n"
    with pytest.raises(BlockingIOError):
        take_lock(tmp_path / "lock")
    os.close(handle)
    assert another() == ""
    os.close(take_lock(tmp_path / "lock", wait=True))
    with pytest.raises(FileNotFoundError):
        take_lock(tmp_path / "none" / "lock")
