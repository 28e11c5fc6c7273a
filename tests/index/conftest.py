"""One snapshot that the tests read, and a way to have one that they may harm."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from index.build import build
from index.delta_frames import list_segments
from index.delta_log import LogReader, LogWriter, Write, first_write
from index.delta_merge import merge_segments
from index.delta_records import Delete, Put
from index.faults import EXIT_CODE, VARIABLE
from index.items import Item
from index.recall import Embeddings
from index.snapshot import Snapshot
from model.catalogue import read_catalogue
from model.engine import Engine
from model.product import Catalogue
from model.states import QuantisedStates


@pytest.fixture(scope="session")
def catalogue(demo_catalogue: Path) -> Iterator[Catalogue]:
    """96 products, some with two views."""
    with read_catalogue(demo_catalogue / "train.csv") as catalogue:
        yield catalogue


@pytest.fixture(scope="session")
def root(catalogue: Catalogue, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one snapshot; not to be written to."""
    root = tmp_path_factory.mktemp("index") / "snapshots"
    build(catalogue, engine, root, progress=False, text_template="{title}", chunk=16)
    return root


@pytest.fixture
def own_root(root: Path, tmp_path: Path) -> Path:
    """A copy of `root`."""
    return Path(shutil.copytree(root, tmp_path / "own"))


@pytest.fixture(scope="session")
def snapshot(root: Path) -> Snapshot:
    """The snapshot in `root`."""
    return Snapshot.open(root)


MakePut = Callable[..., Put]


@pytest.fixture(scope="session")
def make_put(snapshot: Snapshot) -> MakePut:
    """Makes puts with random states and embeddings: the same for the same id and seed."""
    sizes = snapshot.manifest.sizes

    def make(
        id: str,
        seed: int = 0,
        *,
        views: int = 1,
        model_id: str = snapshot.model_id,
        **attributes: Any,
    ) -> Put:
        random = np.random.default_rng([seed, *id.encode()])

        def states(rows: int, length: int) -> QuantisedStates:
            values = random.integers(-127, 128, (rows, length, sizes.hidden_size), dtype=np.int8)
            scales = random.uniform(0.01, 0.1, (rows, length)).astype(np.float32)
            return QuantisedStates(values, scales)

        def embeddings(rows: int) -> Embeddings:
            vectors = random.normal(size=(rows, sizes.recall_size)).astype(np.float32)
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

        pictures = []
        for _ in range(views):
            buffer = io.BytesIO()
            colour = tuple(random.integers(0, 256, 3).tolist())
            Image.new("RGB", (64, 48), colour).save(buffer, "PNG")
            pictures.append(buffer.getvalue())
        title = f"product {id}, {seed}"
        names = tuple(f"sha256:{hashlib.sha256(each).hexdigest()}" for each in pictures)
        return Put(
            item=Item(id, title, f"{title}. Written.", names, attributes),
            model_id=model_id,
            truncated=False,
            text_states=states(1, 3 + seed % 4),
            text_embedding=embeddings(1)[0],
            image_states=states(views, sizes.patches),
            image_embeddings=embeddings(views),
            pictures=tuple(pictures),
        )

    return make


class Log:
    """The log of writes in a folder, opened anew for each of these."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def append(self, *records: Put | Delete) -> None:
        with LogWriter(self._root) as writer:
            writer.append(self._reader(), records)

    def rotate(self) -> None:
        with LogWriter(self._root) as writer:
            writer.rotate(self._reader())

    def merge(self, after: int) -> int:
        return merge_segments(self._root, after)

    def read(self, after: int = 0) -> list[Write]:
        return LogReader(self._root, after).read()

    @staticmethod
    def ids(writes: list[Write]) -> list[tuple[int, str]]:
        return [(write.sequence, write.record.id) for write in writes]

    def _reader(self) -> LogReader:
        """One that has read everything."""
        reader = LogReader(self._root, first_write(self._root) - 1)
        reader.read()
        return reader


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """A log that is empty yet."""
    return Log(tmp_path)


class Disk:
    """What a disk has of the log's files: what is synced, if that succeeds, and so is their name.

    As Linux does it, what fails to be synced is not tried again by the next `os.fsync`, unless
    `os.write` has written it anew.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: BaseException | None = None
        self._write, self._fsync = os.write, os.fsync
        self._stored: dict[int, set[int]] = {}  # the bytes by the file's number
        self._lost: dict[int, set[int]] = {}
        self._names: dict[tuple[int, str], int] = {}  # the file's number by folder and name
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def write(self, file: int, data: bytes) -> int:
        start = os.lseek(file, 0, os.SEEK_CUR)
        written = self._write(file, data)
        self._lost.get(os.fstat(file).st_ino, set()).difference_update(
            range(start, start + written)
        )
        return written

    def fsync(self, file: int) -> None:
        status = os.fstat(file)
        stored = self._stored.setdefault(status.st_ino, set())
        lost = self._lost.setdefault(status.st_ino, set())
        every = set(range(status.st_size))
        if isinstance(self.fails, OSError):
            lost |= every - stored
        if self.fails is not None:
            raise self.fails
        self._fsync(file)
        if stat.S_ISDIR(status.st_mode):
            for entry in os.scandir(file):
                self._names[status.st_ino, entry.name] = entry.inode()
        stored |= every - lost

    def lacks(self, root: Path) -> int:
        """How many bytes of the log a power cut would take."""
        return sum(self._lacks_of(path) for path in list_segments(root / "delta"))

    def _lacks_of(self, path: Path) -> int:
        every = set(range(path.stat().st_size))
        if not (self._has_name(path) and self._has_name(path.parent)):
            return len(every)
        return len(every - self._stored.get(path.stat().st_ino, set()))

    def _has_name(self, path: Path) -> bool:
        number = self._names.get((path.parent.stat().st_ino, path.name))
        return number == path.stat().st_ino


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Knows what of this process's files a power cut would leave."""
    return Disk(monkeypatch)


Crash = Callable[..., None]


@pytest.fixture
def crash() -> Crash:
    """Runs code in a process of its own, which dies at a crash point."""

    def run(point: str, code: str, *arguments: object) -> None:
        ran = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, VARIABLE: point, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert ran.returncode == EXIT_CODE, ran.stderr

    return run
