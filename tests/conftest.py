"""What many tests need, made once a session from our own renderer: nobody else's data."""

from __future__ import annotations

import dataclasses
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import onnx
import pytest
import torch

from model.backbones import new_config, new_model
from model.bundle import Bundle, write_manifest
from model.catalogue import read_catalogue
from model.demo import write_demo_catalogue
from model.engine import Engine
from model.export import export_bundle
from model.row_inputs import with_row_inputs
from model.wordpiece import save_tokenizer, train_wordpiece


@pytest.fixture(scope="session")
def demo_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo catalogue: train.csv (96 products), val.csv (32) and images.tar."""
    folder = tmp_path_factory.mktemp("demo") / "catalogue"
    write_demo_catalogue(folder, products=96, held_out=32, seed=7)
    return folder


def make_bundle(catalogue: Path, folder: Path, seed: int) -> Bundle:
    """An untrained `tiny` model, exported: real graphs, meaningless scores."""
    with read_catalogue(catalogue / "train.csv") as feed:
        tokenizer = train_wordpiece(product.text for product in feed.products)
    save_tokenizer(tokenizer, folder.parent / f"{folder.name}-tokenizer.json")
    torch.manual_seed(seed)
    config = new_config("tiny", vocab_size=tokenizer.get_vocab_size(), image_size=64)
    model = new_model(config)
    model.match_head.recall_weight.fill_(20.0)  # as after a training: scores that differ
    tokenizer_file = folder.parent / f"{folder.name}-tokenizer.json"
    return export_bundle(model, tokenizer_file, folder)[0]


@pytest.fixture(scope="session")
def bundle(demo_catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of an untrained `tiny` model."""
    return make_bundle(demo_catalogue, tmp_path_factory.mktemp("bundle") / "tiny", seed=1)


@pytest.fixture(scope="session")
def other_bundle(demo_catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of another model of the same shape."""
    return make_bundle(demo_catalogue, tmp_path_factory.mktemp("bundle") / "other", seed=2)


@pytest.fixture(scope="session")
def row_bundle(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """`bundle`, in fp32 still, with a matcher that has row inputs, as that of fp16 has."""
    own = Path(shutil.copytree(bundle.path, tmp_path_factory.mktemp("rows") / "fp32"))
    model = with_row_inputs(onnx.load(str(own / "matcher.onnx")))
    onnx.checker.check_model(model)
    onnx.save(model, str(own / "matcher.onnx"))
    fields = dataclasses.asdict(bundle.manifest)
    for name in ("model_id", "files", "format", "checksum"):
        fields.pop(name, None)
    return Bundle(own, write_manifest(own, **fields))


@pytest.fixture(scope="session")
def engine(bundle: Bundle) -> Engine:
    """ONNX Runtime over `bundle`."""
    return Engine(bundle, threads=2)


@contextmanager
def _files_up_to(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def files_up_to() -> Callable[[int], AbstractContextManager[None]]:
    """No file may grow beyond so many bytes, as on a full disk."""
    return _files_up_to
