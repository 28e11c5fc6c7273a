"""Runs that share a cache, and want the same array."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from model.config import FashionBertConfig
from model.files import take_lock
from model.inputs import prepare_inputs
from model.network import FashionBertModel
from model.pictures import TarPictures
from model.product import Catalogue


class Noting(TarPictures):
    """A tar that notes what is read of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.names: list[str] = []

    def read(self, name: str) -> bytes:
        self.names.append(name)
        return super().read(name)


@pytest.fixture
def pixels_model(small: FashionBertConfig) -> FashionBertModel:
    return FashionBertModel(small)


WORKER = """
import itertools, sys
from pathlib import Path
from model import inputs
from model.catalogue import read_catalogue
from model.config import FashionBertConfig
from model.network import FashionBertModel

config, feed, cache = map(Path, sys.argv[1:])
inputs.NOTE_EVERY = 1
decode, rows = inputs.decode_image, itertools.count()

def stopping(data, size):
    if next(rows) == 64:  # the first 32 are written, and noted
        print("half", flush=True)
        sys.stdin.readline()
    return decode(data, size)

inputs.decode_image = stopping
with read_catalogue(feed / "train.csv", check_images=False) as learn:
    model = FashionBertModel(FashionBertConfig.from_pretrained(config))
    inputs.prepare_inputs(model, learn, cache)
"""


@pytest.mark.parametrize("end", ["finishes", "is killed"])
def test_two_runs_make_it_once(
    end: str,
    learn: Catalogue,
    pixels_model: FashionBertModel,
    demo_catalogue: Path,
    tmp_path: Path,
) -> None:
    whole = prepare_inputs(pixels_model, learn, tmp_path / "whole").array
    pixels_model.config.save_pretrained(tmp_path / "config")
    cache = tmp_path / "cache"
    pictures = Noting(demo_catalogue / "images.tar")
    same = replace(learn, pictures=pictures)
    with (
        subprocess.Popen(
            [sys.executable, "-c", WORKER, tmp_path / "config", demo_catalogue, cache],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as other,
        ThreadPoolExecutor(max_workers=1) as pool,
    ):
        try:
            assert other.stdin is not None
            assert other.stdout is not None
            assert other.stdout.readline() == "half\n"
            found = pool.submit(prepare_inputs, pixels_model, same, cache)
            assert not wait([found], timeout=1).done  # it waits for the other
            if end == "finishes":
                other.stdin.write("\n")
                other.stdin.flush()
            else:
                other.kill()
            assert np.array_equal(found.result(timeout=60).array, whole)
        finally:
            other.kill()
    # What the other one has made is not made again.
    names = [name for product in learn.products for name in product.images]
    made = len(names) - len(pictures.names)
    assert made == len(names) if end == "finishes" else made in (32, 64)
    assert sorted(pictures.names) == sorted(names[made:])
    assert [path.suffix for path in cache.iterdir()] == [".npy"]


def test_who_waits_says_so(
    learn: Catalogue, pixels_model: FashionBertModel, tmp_path: Path
) -> None:
    prepare_inputs(pixels_model, learn, tmp_path)
    (made,) = tmp_path.glob("*.npy")
    made.unlink()
    handle = take_lock(made.with_suffix(".lock"))
    with Progress(disable=True) as bars, ThreadPoolExecutor(max_workers=1) as pool:
        found = pool.submit(prepare_inputs, pixels_model, learn, tmp_path, progress=bars)
        while not bars.tasks:
            time.sleep(0.01)
        assert bars.tasks[0].description == "waiting: another run makes them"
        os.close(handle)
        assert found.result(timeout=60).array.any()
    assert [task.description for task in bars.tasks] == ["pictures"]
