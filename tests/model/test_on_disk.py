"""Lists and tables that put their records on disk."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import TemporaryFileError
from model.on_disk import DiskList, DiskSorted, DiskTable, chosen_folder, put_aside_in

#: More than are written, or read, at a time.
MANY = 1000


def same(value: Any) -> Any:
    return value


def filled(count: int) -> DiskList[Any]:
    records: DiskList[Any] = DiskList(same, same)
    for number in range(count):
        records.append({"number": number})
    return records


# Lists


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, MANY])
def test_a_list_is_what_was_appended(count: int) -> None:
    expected = [{"number": number} for number in range(count)]
    records = filled(count)
    assert len(records) == count
    assert list(records) == expected
    assert records[:] == expected
    assert records[250:260] == expected[250:260]
    assert records[-3:] == expected[-3:]
    assert records[::-7] == expected[::-7]
    for place in (-count - 1, count):
        with pytest.raises(IndexError):
            records[place]
    if count:
        assert (records[0], records[-1]) == (expected[0], expected[-1])


def test_a_list_that_grows_while_it_is_read() -> None:
    records = filled(10)
    seen = []
    for record in records:
        seen.append(record["number"])
        if len(records) < MANY:
            records.append({"number": len(records)})
    assert seen == list(range(MANY))


@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text() | st.integers(-(2**70), 2**70),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        )
    )
)
def test_records_come_back_as_they_were(records: list[Any]) -> None:
    stored: DiskList[Any] = DiskList(same, same)
    for record in records:
        stored.append(record)
    assert repr(list(stored)) == repr(records)  # NaN is not equal to itself


def test_threads_may_share_a_list() -> None:
    records: DiskList[int] = DiskList(same, same)

    def work(start: int) -> None:
        for number in range(start, start + MANY):
            records.append(number)
            assert 0 <= records[random.randrange(len(records))] < 4 * MANY

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(0, 4 * MANY, MANY)))
    assert sorted(records) == list(range(4 * MANY))


# Tables


def test_a_table_keeps_the_order_in_which_keys_came() -> None:
    table: DiskTable[int] = DiskTable(same, same)
    for number in range(MANY):
        table.put(f"key {number}", number)
    table.put("key 3", -3)  # on disk by now
    table.put("key 999", -999)  # not yet
    table.put("new", 7)
    assert [table.get("key 3"), table.get("key 999"), table.get("new")] == [-3, -999, 7]
    assert (table.get("key 1000"), "key 1000" in table, 7 in table) == (None, False, False)
    assert "new" in table
    assert len(table) == MANY + 1
    assert list(table) == [0, 1, 2, -3, *range(4, 999), -999, 7]


@given(st.lists(st.tuples(st.text(max_size=2), st.integers()), max_size=600))
def test_a_table_is_a_dictionary(pairs: list[tuple[str, int]]) -> None:
    table: DiskTable[int] = DiskTable(same, same)
    expected: dict[str, int] = {}
    for key, value in pairs:
        assert table.get(key) == expected.get(key)
        table.put(key, value)
        expected[key] = value
    assert list(table) == list(expected.values())


# By number


@given(st.lists(st.integers(0, 5), max_size=600))
def test_records_by_number(numbers: list[int]) -> None:
    records: DiskSorted[tuple[int, int]] = DiskSorted(same, tuple)
    for at, number in enumerate(numbers):
        records.add(number, (number, at))
    assert list(records) == sorted((number, at) for at, number in enumerate(numbers))
    assert (len(records), records.numbers) == (len(numbers), len(set(numbers)))


# The file


def _elsewhere(work: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own that does some work."""
    return subprocess.run(
        [sys.executable, "-c", work],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | environment,
    )


def open_files() -> Iterator[str]:
    for entry in Path("/proc/self/fd").iterdir():
        if entry.is_symlink():
            try:
                yield os.readlink(entry)
            except OSError:
                continue  # the folder's own


def test_the_file_lies_where_it_is_put_and_has_no_name(tmp_path: Path) -> None:
    with put_aside_in(tmp_path):
        assert chosen_folder() == tmp_path
        records: DiskList[str] = DiskList(same, same)
        for _ in range(400):
            records.append("x" * 100_000)  # 40 MB, of which 8 are in memory
        here = [path for path in open_files() if path.startswith(f"{tmp_path}/")]
        assert len(here) == 1
        assert list(tmp_path.iterdir()) == []
    assert chosen_folder() is None
    assert records[399] == records[0] == "x" * 100_000
    del records
    gc.collect()
    assert [path for path in open_files() if path.startswith(f"{tmp_path}/")] == []


def large() -> DiskList[Any]:
    """A list that is no more in memory."""
    records: DiskList[Any] = DiskList(same, same)
    for _ in range(256):
        records.append("x" * 40_000)
    return records


def test_what_is_small_needs_no_disk(tmp_path: Path) -> None:
    with put_aside_in(tmp_path / "gone"):
        records, before = filled(MANY), set(open_files())
    assert len(list(records)) == MANY
    assert set(open_files()) == before


def test_a_table_moves_with_all_that_it_has(tmp_path: Path) -> None:
    with put_aside_in(tmp_path):
        table: DiskTable[str] = DiskTable(same, same)
        by_number: DiskSorted[str] = DiskSorted(same, same)
        for number in range(MANY):
            table.put(f"{number % 700}", f"{number} {'x' * 20_000}")
            by_number.add(-number, f"{number} {'x' * 20_000}")
    for number in (0, 299, 300, 699):
        found = table.get(f"{number}")
        assert found is not None
        assert found.split()[0] == f"{number + 700 if number < 300 else number}"
    assert [record.split()[0] for record in by_number] == [f"{n}" for n in reversed(range(MANY))]
    assert list(tmp_path.iterdir()) == []


def test_the_usual_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    records = large()
    assert any(path.startswith(f"{tmp_path}/") for path in open_files())
    assert list(tmp_path.iterdir()) == []
    del records
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    records = large()
    assert any(path.startswith("/var/tmp/.fashionbert-") for path in open_files())
    assert len(records) == 256


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with (
        put_aside_in(tmp_path / "gone"),
        pytest.raises(TemporaryFileError, match=r"temporary file in .*gone, and that fails"),
    ):
        large()


def test_what_has_failed_is_of_no_use_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was not stored is passed over."""
    records = large()
    writes = records._database.write

    def fail(*_: object) -> None:
        monkeypatch.setattr(records._database, "write", writes)
        writes("INSERT INTO nowhere VALUES (?)", [(1,)])

    monkeypatch.setattr(records._database, "write", fail)

    def fill() -> None:
        for _ in range(64):
            records.append("x")

    for use in (fill, fill, lambda: records[0], lambda: list(records)):
        with pytest.raises(TemporaryFileError, match="no such table: nowhere"):
            use()


_NO_LOCKS = """
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <dlfcn.h>
static int refuse(int fd, int command, va_list arguments, const char *name) {
    void *argument = va_arg(arguments, void *);
    if (command == F_SETLK || command == F_SETLKW || command == F_GETLK) {
        errno = ENOLCK;
        return -1;
    }
    int (*real)(int, int, ...) = dlsym(RTLD_NEXT, name);
    return real(fd, command, argument);
}
int fcntl(int fd, int command, ...) {
    va_list arguments;
    va_start(arguments, command);
    return refuse(fd, command, arguments, "fcntl");
}
int fcntl64(int fd, int command, ...) {
    va_list arguments;
    va_start(arguments, command);
    return refuse(fd, command, arguments, "fcntl64");
}
"""


def test_a_file_system_without_locks_will_do(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    (tmp_path / "locks.c").write_text(_NO_LOCKS)
    library = tmp_path / "locks.so"
    command = [compiler, "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", str(library), "locks.c", "-ldl"]
    subprocess.run(command, check=True, cwd=tmp_path)
    work = """
from model.on_disk import DiskList
records = DiskList(str, str)
for number in range(640):
    records.append(f"{number}" + "x" * 20_000)
assert [record.rstrip("x") for record in records] == [f"{number}" for number in range(640)]
"""
    told = _elsewhere(work, LD_PRELOAD=str(library))
    assert told.returncode == 0, told.stderr


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    work = """
import os, signal, sqlite3
from model import on_disk
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
class Dying(sqlite3.Connection):
    backup = die
on_disk.sqlite3.connect = Dying
records = on_disk.DiskList(str, str)
for number in range(640):
    records.append("x" * 20_000)
"""
    run = _elsewhere(work, TMPDIR=str(tmp_path))
    assert run.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


_FULL = """
import resource, signal
from model.errors import TemporaryFileError
from model.on_disk import DiskList
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 24, 1 << 24))
records = DiskList(str, str)
try:
    for _ in range(1000):
        records.append("x" * 100_000)
except TemporaryFileError as error:
    print(error)
"""


def test_a_disk_that_is_full_is_told_of() -> None:
    told = _elsewhere(_FULL, TMPDIR="/var/tmp")
    assert "temporary file in /var/tmp, and that fails (" in told.stdout, told.stderr
    assert "let TMPDIR name another folder" in told.stdout
