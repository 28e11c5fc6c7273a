"""One snapshot that the tests read, and a way to have one that they may harm."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from index.build import build
from index.delta_records import Put
from index.faults import EXIT_CODE, VARIABLE
from index.items import Item
from index.recall import Embeddings
from index.snapshot import Snapshot
from model.catalogue import Catalogue, read_catalogue
from model.engine import Engine
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
