"""A catalogue encoded by several processes: the same snapshot, and nothing left behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from index.build import build
from index.chunks import Chunk, chunks_of
from index.manifest import FILES
from index.processes import EncodingProcesses, visible_gpus
from index.snapshot import Snapshot
from model.catalogue import read_catalogue
from model.engine import Engine
from model.errors import SnapshotError
from model.preprocess import DEFAULT_LIMITS, ImageLimits
from model.product import Catalogue

# A build that is killed, as hard as can be, when it has recorded three chunks; it says which
# processes it had started.
KILLED = """
import os, signal, sys
from pathlib import Path
from index.build import build
from index.parts import Progress
from model.bundle import Bundle
from model.catalogue import read_catalogue
from model.engine import Engine

save, left = Progress.save, [1, 2, 3]

def save_and_die(progress, path):
    save(progress, path)
    left.pop()
    if not left:
        print(Path(f"/proc/self/task/{os.getpid()}/children").read_text(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

Progress.save = save_and_die
engine = Engine(Bundle.open(Path(sys.argv[2])), threads=2)
with read_catalogue(Path(sys.argv[1]), check_images=False) as catalogue:
    build(
        catalogue,
        engine,
        Path(sys.argv[3]),
        progress=False,
        text_template="{title}",
        batch_size=8,
        chunk=4,
        processes=2,
    )
"""


def _assert_same_arrays(ours: Path, theirs: Path) -> None:
    for name in FILES:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def test_the_snapshot_is_the_one_of_a_single_process(
    catalogue: Catalogue, engine: Engine, root: Path, tmp_path: Path
) -> None:
    given = {"progress": False, "text_template": "{title}", "chunk": 16}
    snapshot = build(catalogue, engine, tmp_path / "index", processes=3, **given)  # type: ignore[arg-type]
    _assert_same_arrays(snapshot.path, root / "00000001")
    Snapshot.open(tmp_path / "index", verify=True)
    assert multiprocessing.active_children() == []


def _is_running(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_killed_in_between_it_leaves_no_process_and_goes_on_with_another_number(
    demo_catalogue: Path, catalogue: Catalogue, engine: Engine, tmp_path: Path
) -> None:
    own, feed = tmp_path / "snapshots", demo_catalogue / "train.csv"
    arguments = [str(feed), str(engine.bundle.path), str(own)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    children = [int(one) for one in killed.stdout.split()]
    assert len(children) >= 2
    deadline = time.monotonic() + 120
    while any(map(_is_running, children)):
        assert time.monotonic() < deadline, "a process outlives its build"
        time.sleep(0.01)
    (record,) = own.glob(".building-*.json")
    assert json.loads(record.read_bytes())["position"] == 12
    given = {"progress": False, "text_template": "{title}", "batch_size": 8, "chunk": 4}
    resumed = build(catalogue, engine, own, **given)  # type: ignore[arg-type]
    whole = build(catalogue, engine, tmp_path / "whole", **given)  # type: ignore[arg-type]
    _assert_same_arrays(resumed.path, whole.path)


def test_no_more_chunks_are_taken_than_the_processes_are_given(
    catalogue: Catalogue, engine: Engine
) -> None:
    taken: list[int] = []

    def source() -> Iterator[Chunk]:
        for chunk in chunks_of(catalogue.products, 0, 2):
            taken.append(chunk.start)
            yield chunk

    given = {"batch_size": 8, "limits": DEFAULT_LIMITS}
    with EncodingProcesses(engine, catalogue.pictures, 2, **given) as processes:  # type: ignore[arg-type]
        starts = []
        for encoded in processes.encode(source()):
            starts.append(encoded.start)
            assert len(taken) <= len(starts) + 2 * 3
    assert starts == taken == list(range(0, 96, 2))


def test_pictures_of_fashiongen_are_opened_too(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "fashiongen_256_256_train.h5"
    with h5py.File(path, "w") as file:
        noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
        file["input_image"] = noise
        for name, cells in (("productID", "112"), ("name", "aab"), ("description", "ccd")):
            file[f"input_{name}"] = np.array([[cell.encode()] for cell in cells])
    given = {"batch_size": 8, "limits": DEFAULT_LIMITS}
    with (
        read_catalogue(path) as catalogue,
        EncodingProcesses(engine, catalogue.pictures, 1, **given) as processes,  # type: ignore[arg-type]
    ):
        (encoded,) = processes.encode(chunks_of(catalogue.products, 0, 2))
    assert encoded.kept == [0, 1]
    assert encoded.skipped == []


def test_one_that_was_killed_is_told_with_its_products(
    catalogue: Catalogue, engine: Engine
) -> None:
    given = {"batch_size": 8, "limits": DEFAULT_LIMITS}
    chunks = chunks_of(catalogue.products, 0, 2)
    with EncodingProcesses(engine, catalogue.pictures, 1, **given) as processes:  # type: ignore[arg-type]
        encoded = processes.encode(chunks)
        next(encoded)
        (child,) = multiprocessing.active_children()
        os.kill(child.pid or 0, signal.SIGKILL)
        with pytest.raises(SnapshotError, match=r"exit code -9.*fewer --processes") as caught:
            list(encoded)
    assert any(repr(product.id) in str(caught.value) for product in catalogue.products[2:])
    assert multiprocessing.active_children() == []


def test_one_that_was_killed_while_it_gave_its_result(catalogue: Catalogue, engine: Engine) -> None:
    given = {"batch_size": 8, "limits": DEFAULT_LIMITS}
    (small,) = chunks_of(catalogue.products[:2], 0, 2)
    (large,) = chunks_of(catalogue.products, 0, 96)  # more than a pipe holds
    chunks = [small, large, small, small, small]
    with EncodingProcesses(engine, catalogue.pictures, 1, **given) as processes:  # type: ignore[arg-type]
        encoded = processes.encode(chunks)
        next(encoded)
        ((child, connection),) = processes._processes
        with socket.socket(fileno=os.dup(connection.fileno())) as begun:
            while len(begun.recv(1000, socket.MSG_PEEK)) < 1000:
                assert child.is_alive()
                time.sleep(0.001)
        child.kill()
        with pytest.raises(SnapshotError, match=r"exit code -9.*fewer --processes"):
            next(encoded)


def test_what_is_nobody_s_mistake_is_told_with_its_traceback(
    catalogue: Catalogue, engine: Engine
) -> None:
    """And pictures have the build's limits in a process, too."""
    limits = ImageLimits(max_pixels=1)
    first, second, third = chunks_of(catalogue.products, 0, 32)
    broken = replace(third, images=(([],),) * 32)  # type: ignore[arg-type]
    with EncodingProcesses(engine, catalogue.pictures, 1, batch_size=8, limits=limits) as processes:
        encoded = processes.encode([first, second, broken])
        assert len(next(encoded).skipped) == sum(map(len, first.images))
        with pytest.raises(RuntimeError, match=r"(?s)products .* failed: Traceback.* of product"):
            list(encoded)


def test_what_fails_in_one_is_told_in_a_sentence(
    demo_catalogue: Path, engine: Engine, tmp_path: Path
) -> None:
    shop = shutil.copytree(demo_catalogue, tmp_path / "shop")
    with read_catalogue(shop / "train.csv", check_images=False) as catalogue:
        (shop / "images.tar").unlink()
        with pytest.raises(SnapshotError, match=r"products .* failed: there are no pictures at"):
            build(catalogue, engine, tmp_path / "index", progress=False, processes=2)
    assert multiprocessing.active_children() == []


def test_each_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(2, tmp_path / "no driver") == ["0", "1"]
    (tmp_path / "0000:18:00.0").mkdir()
    assert visible_gpus(1, tmp_path) == ["0"]
    with pytest.raises(SnapshotError, match=r"--processes 2, but this machine has 1"):
        visible_gpus(2, tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-abc,5")
    assert visible_gpus(2) == ["3", "GPU-abc"]
    with pytest.raises(SnapshotError, match=r"--processes 4.*has 3"):
        visible_gpus(4)
