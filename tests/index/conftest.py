"""One snapshot that the tests read, and a way to have one that they may harm."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from index.build import build
from index.snapshot import Snapshot
from model.catalogue import Catalogue, read_catalogue
from model.engine import Engine


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
