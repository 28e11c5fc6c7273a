from __future__ import annotations

import copy
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from model.backbones import new_config, new_model
from model.bundle import Bundle
from model.config import FashionBertConfig
from model.engine import Engine
from model.errors import BundleError
from model.export import OPSET, TOLERANCE, check_parity, export_bundle, try_image_encoder
from model.network import FashionBertModel
from model.preprocess import TextTokenizer
from model.states import quantise

GRAPHS = ("text_encoder.onnx", "image_encoder.onnx", "matcher.onnx")


def network(config: FashionBertConfig, **changes: Any) -> FashionBertModel:
    config = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = FashionBertModel(config)
    if config.stack_recall:
        model.match_head.recall_weight.fill_(5)
    return model


@pytest.fixture(scope="module")
def exported(
    small: FashionBertConfig, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """`small` as a bundle; not to be written to."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    return export_bundle(network(small), tokenizer, folder, calibration=(2.0, 0.5))[0]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundle_says_what_it_is(exported: Bundle, small: FashionBertConfig) -> None:
    manifest = Bundle.open(exported.path).manifest
    assert {path.name for path in exported.path.iterdir()} == {
        "manifest.json",
        "tokenizer.json",
        *GRAPHS,
    }
    assert (manifest.hidden_size, manifest.patches, manifest.recall_size) == (32, 64, 16)
    assert (manifest.image_size, manifest.max_text_tokens, manifest.joint_from) == (64, 48, 2)
    assert (manifest.precision, tuple(manifest.calibration)) == ("fp32", (2.0, 0.5))
    assert manifest.config["vocab_size"] == small.vocab_size
    for name in GRAPHS:
        graph = onnx.load(exported.path / name)
        assert [entry.version for entry in graph.opset_import if not entry.domain] == [OPSET]


def test_the_same_model_gives_the_same_bundle(
    exported: Bundle, small: FashionBertConfig, tokenizer: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "er" / "bundle"
    again, _ = export_bundle(network(small).train(), tokenizer, folder, calibration=(2.0, 0.5))
    assert again.model_id == exported.model_id
    assert not list(folder.parent.glob(".*"))


SHAPES: dict[str, dict[str, Any]] = {
    "stacked": {},
    "plain": {"stack_recall": False},
    "k = 0 with a recall head": {"joint_from": 0, "stack_recall": False},
    "without a recall head": {"recall_size": 0, "stack_recall": False},
    "the paper's": {"joint_from": 0, "recall_size": 0, "stack_recall": False},
    "one joint layer": {"joint_from": 3},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_computes_what_torch_does(
    shape: str, small: FashionBertConfig, tokenizer: Path, tmp_path: Path
) -> None:
    model = network(small, **SHAPES[shape])
    bundle, difference = export_bundle(model, tokenizer, tmp_path / "bundle")
    assert 0 < difference <= TOLERANCE
    sessions = [ort.InferenceSession(bundle.path / name) for name in GRAPHS]
    texts = TextTokenizer(tokenizer, 48).encode(["red", "a dress with a long sleeve", "coat " * 60])
    assert texts.input_ids.shape == (3, 48)  # the longest is cut to what the model reads
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    feeds = {"input_ids": texts.input_ids, "attention_mask": texts.attention_mask}
    encoded = [sessions[0].run(None, feeds), sessions[1].run(None, {"pixels": pixels})]
    mask = torch.from_numpy(texts.attention_mask)
    with torch.inference_mode():
        wanted = [
            model.encode_text(torch.from_numpy(texts.input_ids), mask),
            model.encode_image(torch.from_numpy(pixels)),
        ]
    for ours, theirs in zip(encoded, wanted, strict=True):
        assert len(ours) == (1 if model.recall_head is None else 2)
        for one, other in zip(ours, theirs, strict=False):
            assert other is not None
            assert np.abs(one - other.numpy()).max() <= TOLERANCE
    # As it is served: int8 states, and one text against several pictures or the reverse.
    words, images = quantise(encoded[0][0], texts.attention_mask), quantise(encoded[1][0])
    with torch.inference_mode():
        logits = model.match(
            torch.from_numpy(words.dequantise()), mask, torch.from_numpy(images.dequantise())
        ).numpy()
    feeds = {
        "text_states": words.values,
        "text_scales": words.scales,
        "image_states": images.values,
        "image_scales": images.scales,
    }
    assert np.abs(sessions[2].run(None, feeds)[0] - logits).max() <= TOLERANCE
    for side in ("text", "image"):
        few = {name: value[:1] if side in name else value for name, value in feeds.items()}
        found = sessions[2].run(None, few)[0]
        assert found.shape == (3,)
        assert abs(found[0] - logits[0]) <= TOLERANCE
        assert np.abs(found[1:] - logits[1:]).min() > 1e-3


def with_cnn(cnn: Path, patches: str = "grid", cnn_image_size: int = 28) -> FashionBertModel:
    torch.manual_seed(0)
    config = new_config(
        "tiny",
        vocab_size=1000,
        cnn=str(cnn),
        patches=patches,
        patch_grid=4,
        image_size=64,
        cnn_image_size=cnn_image_size,
        freeze_cnn=True,
    )
    return new_model(config)


@pytest.mark.parametrize(
    ("cnn", "patches", "cnn_image_size"),
    [
        ("resnet", "grid", 24),
        ("resnet", "grid", 64),
        ("resnet", "crop", 24),
        ("resnet", "crop", 64),
        ("vit", "crop", 28),
    ],
)
def test_a_cnn_is_exported_too(
    cnn: str,
    patches: str,
    cnn_image_size: int,
    tokenizer: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Any number of pictures, and a feature map of another side than the grid."""
    model = with_cnn(request.getfixturevalue(cnn), patches, cnn_image_size)
    bundle, difference = export_bundle(model, tokenizer, tmp_path / "bundle")
    assert difference <= TOLERANCE
    engine = Engine(bundle, threads=1)
    for count in (1, 5):
        pixels = np.zeros((count, 64, 64, 3), dtype=np.uint8)
        assert engine.encode_images(pixels).states.values.shape == (count, 16, 128)


def test_a_cnn_that_onnx_cannot_hold_is_told(
    registers: Path, tokenizer: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = with_cnn(registers).train()
    told = r"image_encoder\.onnx cannot be exported \(.*upsample.*\): train with another --cnn"
    with pytest.raises(BundleError, match=told):
        export_bundle(model, tokenizer, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
    model.train()
    with pytest.raises(BundleError, match=told):
        try_image_encoder(model)
    assert model.training
    assert capfd.readouterr().out == ""  # torch would print the whole graph


def test_a_cnn_is_tried_before_a_training(vit: Path) -> None:
    model = with_cnn(vit, "crop").train()
    try_image_encoder(model)
    assert model.training


def test_a_graph_that_cannot_be_run_is_told(
    exported: Bundle, small: FashionBertConfig, tmp_path: Path
) -> None:
    for name, data in content(exported.path).items():
        (tmp_path / name).write_bytes(data[:500] if name == "text_encoder.onnx" else data)
    with pytest.raises(
        BundleError, match=r"text_encoder\.onnx cannot be exported \(.*: try another"
    ):
        check_parity(network(small).eval(), tmp_path)


@pytest.mark.parametrize(
    ("weight", "graph"),
    [
        ("text_embeddings.norm.bias", "text_encoder"),
        ("patch_embeddings.norm.bias", "image_encoder"),
        ("match_head.pooler.bias", "matcher"),
    ],
)
def test_a_graph_that_computes_something_else_is_refused(
    weight: str, graph: str, exported: Bundle, small: FashionBertConfig
) -> None:
    model = network(small).eval()
    assert check_parity(model, exported.path) <= TOLERANCE
    with torch.no_grad():
        model.get_parameter(weight)[0] += 0.01
    told = rf"the exported {graph}\.onnx differs from torch by .* at .*(batch|texts)"
    with pytest.raises(BundleError, match=told):
        check_parity(model, exported.path)


def broken(small: FashionBertConfig) -> FashionBertModel:
    """A network whose logits are no numbers: no parity can be seen."""
    model = network(small)
    with torch.no_grad():
        model.match_head.classifier.bias.fill_(torch.nan)
    return model


def test_a_failed_export_writes_nothing(
    small: FashionBertConfig, tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=r"matcher\.onnx differs .* the export was not written"):
        export_bundle(broken(small), tokenizer, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_older_bundle(
    small: FashionBertConfig, tokenizer: Path, exported: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name, data in content(exported.path).items():
        (folder / name).write_bytes(data)
    before = content(folder)
    with pytest.raises(BundleError, match="differs from torch"):
        export_bundle(broken(small), tokenizer, folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))  # as on a full disk
    try:
        with pytest.raises(BundleError, match=r"cannot be written \(.*File too large.*make room"):
            export_bundle(network(small), tokenizer, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert content(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_older_bundle_is_replaced(
    small: FashionBertConfig, tokenizer: Path, exported: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    first, _ = export_bundle(network(small, joint_from=1), tokenizer, folder)
    (folder / "notes.txt").write_text("of the older bundle")
    second, _ = export_bundle(network(small), tokenizer, folder, calibration=(2.0, 0.5))
    assert first.model_id != second.model_id == exported.model_id
    assert content(folder).keys() == content(exported.path).keys()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    Bundle.open(folder)


def test_an_empty_folder_is_taken(
    small: FashionBertConfig, tokenizer: Path, tmp_path: Path
) -> None:
    (tmp_path / "bundle").mkdir()
    export_bundle(network(small), tokenizer, tmp_path / "bundle")
    Bundle.open(tmp_path / "bundle")


def test_what_is_no_bundle_is_not_touched(
    small: FashionBertConfig, tokenizer: Path, tmp_path: Path
) -> None:
    folder, file = tmp_path / "letters", tmp_path / "letter.txt"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    file.write_text("dear")
    with pytest.raises(BundleError, match="letters holds something that is no bundle"):
        export_bundle(network(small), tokenizer, folder)
    with pytest.raises(BundleError, match=r"letter\.txt is a file: choose another folder"):
        export_bundle(network(small), tokenizer, file)
    with pytest.raises(BundleError, match=r"letter\.txt is a file: choose another folder than"):
        export_bundle(network(small), tokenizer, file / "bundle")
    assert os.listdir(folder) == ["letter.txt"]
    assert file.read_text() == "dear"
