"""Records that may be too many for memory: lists and tables that put them on disk by themselves.

Each is a private database of SQLite: in memory up to 8 MiB, then in a file, of which that much is
kept in memory. The file has no name any more, so nothing is left of it however the process ends. It
lies where `put_aside_in` says, else in `TMPDIR` or `/var/tmp`, and in `/tmp`, which is memory on
some machines, only if these cannot be written to. It holds JSON: nothing is ever unpickled.

Any number of threads may use one. Whatever cannot be stored or read again is a
`TemporaryFileError`, from then on at each use.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Generic, TypeVar, overload
from urllib.parse import quote

from model.errors import TemporaryFileError

_SETTINGS = (
    "cache_size = -8192",
    "locking_mode = EXCLUSIVE",
    # What a crash leaves is of no use to anyone.
    "journal_mode = OFF",
    "synchronous = OFF",
)
_IN_MEMORY = 8 << 20
_WAITING = 256  # records that are written, or read, at a time
_BLOCK = 64  # records of a list that are one piece of JSON

T = TypeVar("T")

_chosen: ContextVar[Path | None] = ContextVar("chosen", default=None)


@contextmanager
def put_aside_in(folder: Path | None) -> Iterator[None]:
    """Have the files of what is made meanwhile in a folder; with None, in the usual one."""
    before = _chosen.set(folder)
    try:
        yield
    finally:
        _chosen.reset(before)


def chosen_folder() -> Path | None:
    """What `put_aside_in` was last told."""
    return _chosen.get()


def _usual_folder() -> str:
    for usual in (os.environ.get("TMPDIR"), "/var/tmp"):
        if usual and os.path.isdir(usual) and os.access(usual, os.W_OK | os.X_OK):
            return usual
    return tempfile.gettempdir()


class _Database:
    """One table of records, in memory until it is too large for that."""

    def __init__(self, table: str) -> None:
        self._lock = threading.RLock()
        self._folder = chosen_folder()
        self._in_memory = True
        self._where = ""
        self._failed: TemporaryFileError | None = None
        self._use(_connect(":memory:"))
        self.run(table)

    def _use(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._close = weakref.finalize(self, connection.close)

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows that a statement gives."""
        with self._using():
            return self._connection.execute(statement, values).fetchall()

    def write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Run a statement once for each row."""
        with self._using():
            self._connection.execute("BEGIN")
            self._connection.executemany(statement, rows)
            self._connection.execute("COMMIT")
            if self._in_memory and self._bytes() > _IN_MEMORY:
                self._move()

    def _bytes(self) -> int:
        pages: int = self._connection.execute("PRAGMA page_count").fetchone()[0]
        size: int = self._connection.execute("PRAGMA page_size").fetchone()[0]
        return pages * size

    def _move(self) -> None:
        folder = str(self._folder) if self._folder is not None else _usual_folder()
        self._where = f" in {folder}"
        handle, name = tempfile.mkstemp(prefix=".fashionbert-", dir=folder)
        try:
            os.close(handle)
            # Nobody else has the file, and not every file system knows locks.
            connection = _connect(f"file:{quote(name)}?vfs=unix-none")
        finally:
            os.unlink(name)
        try:
            self._connection.backup(connection)
        except BaseException:
            connection.close()
            raise
        self._close()
        self._use(connection)
        self._in_memory = False

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Nobody else may meanwhile, and nobody at all once this has failed: what was to be
        written then is nowhere."""
        with self._lock:
            if self._failed is not None:
                raise self._failed
            try:
                yield
            except BaseException as error:
                self._failed = TemporaryFileError(
                    f"what does not fit into memory is put aside in a temporary file{self._where}, "
                    f"and that fails ({str(error) or type(error).__name__}): make room there for "
                    "several times the feed, or let TMPDIR name another folder"
                )
                if isinstance(error, sqlite3.Error | OSError | OverflowError):
                    raise self._failed from error
                raise


def _connect(name: str) -> sqlite3.Connection:
    connection = sqlite3.connect(name, uri=True, check_same_thread=False, isolation_level=None)
    try:
        for setting in _SETTINGS:
            connection.execute(f"PRAGMA {setting}")
        connection.execute("SELECT * FROM sqlite_master")  # the file is open from here on
    except BaseException:
        connection.close()
        raise
    return connection


#: What JSON does not have becomes text.
_encoder = json.JSONEncoder(ensure_ascii=False, default=str)


def _packed(value: Any) -> bytes:
    return _encoder.encode(value).encode("utf-8", "surrogatepass")


def _unpacked(packed: bytes) -> Any:
    return json.loads(packed.decode("utf-8", "surrogatepass"))


class DiskList(Sequence[T]):
    """Records in the order in which they were appended, read by their place.

    Args:
        encode: a record as JSON has it.
        decode: the record again.
    """

    def __init__(self, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
        self._encode = encode
        self._decode = decode
        self._database = _Database("CREATE TABLE blocks (at INTEGER PRIMARY KEY, records BLOB)")
        self._length = 0
        self._last: list[Any] = []  # the block that is not full, encoded
        self._read_last: tuple[int, list[Any]] = -1, []
        self._lock = threading.RLock()

    def append(self, record: T) -> None:
        """Put a record at the end."""
        encoded = self._encode(record)
        with self._lock:
            if len(self._last) == _BLOCK - 1:
                block = (self._length // _BLOCK, _packed([*self._last, encoded]))
                self._database.write("INSERT INTO blocks VALUES (?, ?)", [block])
                self._last = []
            else:
                self._last.append(encoded)
            self._length += 1

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> list[T]: ...

    def __getitem__(self, place: int | slice) -> T | list[T]:
        if isinstance(place, slice):
            places = range(self._length)[place]
            if places.step == 1:
                return self._read(places.start, places.stop)
            return [self[at] for at in places]
        at = range(self._length)[place]  # IndexError as of a list
        number, block = self._read_last
        if number != at // _BLOCK or at % _BLOCK >= len(block):
            number, block = self._read_last = at // _BLOCK, self._block(at // _BLOCK)
        return self._decode(block[at % _BLOCK])

    def _read(self, start: int, stop: int) -> list[T]:
        return [
            self._decode(record)
            for number in range(start // _BLOCK, -(-stop // _BLOCK))
            for record in self._block(number)[
                max(0, start - number * _BLOCK) : max(0, stop - number * _BLOCK)
            ]
        ]

    def _block(self, number: int) -> list[Any]:
        with self._lock:
            if number == self._length // _BLOCK:
                # A copy, which does not grow, and what `decode` takes is JSON's.
                return list(_unpacked(_packed(self._last)))
        found = self._database.run("SELECT records FROM blocks WHERE at = ?", number)
        return list(_unpacked(found[0][0])) if found else []

    def __iter__(self) -> Iterator[T]:
        start = 0
        while block := self._read(start, start + _BLOCK):
            yield from block
            start += len(block)


class _Records(Generic[T]):
    """Records of a table, of which those that were added last wait to be written together."""

    def __init__(
        self, columns: str, encode: Callable[[T], Any], decode: Callable[[Any], T]
    ) -> None:
        self._encode = encode
        self._decode = decode
        self._database = _Database(f"CREATE TABLE records {columns}")
        self._lock = threading.RLock()

    def _store(self) -> None:
        """Write what waits."""
        raise NotImplementedError

    def _count(self, what: str) -> int:
        with self._lock:
            self._store()
        count: int = self._database.run(f"SELECT COUNT({what}) FROM records")[0][0]
        return count

    def _in_order(self, columns: str, first: tuple[int, ...]) -> Iterator[T]:
        """All records by columns of whole numbers, from behind `first` on."""
        with self._lock:
            self._store()
        marks = ", ".join("?" for _ in first)
        statement = (
            f"SELECT {columns}, record FROM records WHERE ({columns}) > ({marks}) "
            f"ORDER BY {columns} LIMIT {_WAITING}"
        )
        while block := self._database.run(statement, *first):
            first = block[-1][:-1]
            for *_, record in block:
                yield self._decode(_unpacked(record))


class DiskTable(_Records[T]):
    """Records by a key, in the order in which their keys first came.

    Args:
        encode: a record as JSON has it.
        decode: the record again.
    """

    def __init__(self, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
        super().__init__("(at INTEGER PRIMARY KEY, key BLOB UNIQUE, record BLOB)", encode, decode)
        self._waiting: dict[str, T] = {}

    def put(self, key: str, record: T) -> None:
        """Keep a record, which must not be changed unless it is put again; one that has this key
        already loses it, not its place."""
        with self._lock:
            self._waiting[key] = record
            if len(self._waiting) >= _WAITING:
                self._store()

    def _store(self) -> None:
        self._database.write(
            "INSERT INTO records (key, record) VALUES (?, ?) "
            "ON CONFLICT (key) DO UPDATE SET record = excluded.record",
            [(_packed(key), _packed(self._encode(r))) for key, r in self._waiting.items()],
        )
        self._waiting.clear()

    def get(self, key: str) -> T | None:
        """The record with a key, perhaps the very object that was put; None if there is none."""
        with self._lock:
            if key in self._waiting:
                return self._waiting[key]
        found = self._database.run("SELECT record FROM records WHERE key = ?", _packed(key))
        return self._decode(_unpacked(found[0][0])) if found else None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None

    def __len__(self) -> int:
        return self._count("*")

    def __iter__(self) -> Iterator[T]:
        return self._in_order("at", (0,))


class DiskSorted(_Records[T]):
    """Records in the order of a number; of one number, in the order in which they were added.

    Args:
        encode: a record as JSON has it.
        decode: the record again.
    """

    def __init__(self, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
        columns = "(number INTEGER, at INTEGER, record BLOB, PRIMARY KEY (number, at))"
        super().__init__(f"{columns} WITHOUT ROWID", encode, decode)
        self._stored = 0
        self._waiting: list[tuple[int, int, bytes]] = []

    def add(self, number: int, record: T) -> None:
        """Keep a record."""
        encoded = _packed(self._encode(record))
        with self._lock:
            self._waiting.append((number, len(self), encoded))
            if len(self._waiting) >= _WAITING:
                self._store()

    def _store(self) -> None:
        self._database.write("INSERT INTO records VALUES (?, ?, ?)", self._waiting)
        self._stored += len(self._waiting)
        self._waiting.clear()

    def __len__(self) -> int:
        return self._stored + len(self._waiting)

    @property
    def numbers(self) -> int:
        """How many different numbers there are."""
        return self._count("DISTINCT number")

    def __iter__(self) -> Iterator[T]:
        return self._in_order("number, at", (-(1 << 63), -1))
