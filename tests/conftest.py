"""What many tests need, made once a session from our own renderer: nobody else's data."""

from __future__ import annotations

import dataclasses
import gc
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from model.backbones import new_config, new_model
from model.bundle import Bundle, write_manifest
from model.catalogue import read_catalogue
from model.demo import write_demo_catalogue
from model.engine import Engine
from model.export import export_bundle
from model.native.library import NotCompiledError, load
from model.precision import convert_bundle
from model.pretrained import pretrained
from model.row_inputs import with_row_inputs
from model.samples import noise
from model.wordpiece import save_tokenizer, train_wordpiece


class _ByFile(LoadScopeScheduling):
    """Processes that share the tests take whole files, one of them all that needs containers.

    Not by `xdist_group`, which pytest-xdist 3.8 passes over with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "e2e" if Path(file).parent.name == "e2e" else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """With `-n`, whatever `--dist` says."""
    config.option.loadscopereorder = False  # by number of tests, containers would come last
    return _ByFile(config, log)


def pytest_collection_finish() -> None:
    """What was imported is for good: no collection of garbage has to go through it again."""
    gc.collect()
    gc.freeze()


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


#: Bundles for serving: what they are, beside `tiny` with 3 layers: enough to tell the parts apart.
FORMS: dict[str, dict[str, Any]] = {
    "split": {"joint_from": 1},
    "all joint": {"joint_from": 0, "stack_recall": False},
    "last layer only": {"joint_from": 2},
    "aligned": {"joint_from": 1, "alignment_size": 64},
    "without recall": {"joint_from": 1, "recall_size": 0, "stack_recall": False},
    "wide heads": {"joint_from": 1, "num_attention_heads": 2},
}


@pytest.fixture(scope="session")
def compiled() -> None:
    """Skips where there is no compiled matcher, as on another processor."""
    try:
        load()
    except NotCompiledError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["released", *FORMS, "aligned, fp32", "all joint, fp32"])
def form(request: pytest.FixtureRequest) -> str:
    """Each form of a bundle in turn, in int8 or fp32; `released` is the one that comes along."""
    return str(request.param)


@pytest.fixture(scope="session")
def form_bundle(
    bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Bundle]:
    """A bundle of a form; each is made once."""
    made: dict[str, Bundle] = {}

    def make(form: str) -> Bundle:
        if form not in made:
            made[form] = _form_bundle(form, bundle, tmp_path_factory.mktemp("form"))
        return made[form]

    return make


def _form_bundle(form: str, bundle: Bundle, folder: Path) -> Bundle:
    if form == "released":
        return Bundle.open(pretrained())
    torch.manual_seed(3)
    config = new_config(
        "tiny",
        vocab_size=bundle.manifest.config["vocab_size"],
        image_size=64,
        num_hidden_layers=3,
        **FORMS[form.partition(", ")[0]],
    )
    model = new_model(config)
    for parameter in model.match_head.parameters():  # a spread that rounding does not hide
        torch.nn.init.normal_(parameter, std=0.3)
    if config.stack_recall:
        model.match_head.match_weight.fill_(0.7)
        model.match_head.recall_weight.fill_(2.0)
        model.match_head.shift.fill_(-1.5)
    if config.alignment_size:
        model.match_head.alignment_weight.fill_(3.0)
    reference, _ = export_bundle(model, bundle.path / "tokenizer.json", folder / "fp32")
    if form.endswith(", fp32"):
        return convert_bundle(reference, folder / "fused", "fp32")[0]
    return convert_bundle(reference, folder / "int8", "int8", calibrate=noise(64))[0]


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
