from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from model.backbones import new_config, new_model
from model.bundle import Bundle, Manifest, write_manifest
from model.catalogue import read_catalogue
from model.engine import Engine
from model.errors import BundleError
from model.export import export_bundle
from model.graphs import GRAPHS, Graphs
from model.precision import convert_bundle
from model.precision_loss import Errors, RankTrial
from model.product import Catalogue
from model.samples import Samples, noise, samples_of


@pytest.fixture(scope="module")
def catalogue(demo_catalogue: Path) -> Iterator[Catalogue]:
    with read_catalogue(demo_catalogue / "train.csv") as feed:
        yield feed


@pytest.fixture(scope="module")
def samples(catalogue: Catalogue) -> Samples:
    return samples_of(catalogue, 64, 16)


@pytest.fixture(scope="module")
def converted(
    bundle: Bundle, samples: Samples, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Bundle, Errors]]:
    folder = tmp_path_factory.mktemp("precisions")
    return {
        "fp32": convert_bundle(bundle, folder / "fp32", "fp32", measure=samples),
        "int8": convert_bundle(bundle, folder / "int8", "int8", calibrate=samples),
        "plain": convert_bundle(bundle, folder / "plain", "int8"),
        "fp16": convert_bundle(bundle, folder / "fp16", "fp16", measure=samples),
    }


NAMES = ("int8", "plain", "fp16")


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_in_another_precision(
    bundle: Bundle, converted: dict[str, tuple[Bundle, Errors]], name: str
) -> None:
    other, errors = converted[name]
    opened = Bundle.open(other.path)
    assert opened == other
    manifest = opened.manifest
    assert manifest.precision == ("int8" if name == "plain" else name)
    for field in ("hidden_size", "patches", "calibration", "text_template", "config"):
        assert getattr(manifest, field) == getattr(bundle.manifest, field)
    assert manifest.metrics["precision"]["reference"] == bundle.model_id
    assert manifest.metrics["precision"]["errors"]["logit_max"] == errors.logit_max

    def size(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.glob("*.onnx"))

    assert size(other.path) < size(bundle.path) * (0.6 if name == "fp16" else 0.45)
    assert 0 < errors.state_mean < (1e-4 if name == "fp16" else 1e-2)
    assert errors.state_mean <= errors.state_max
    assert 0 < errors.embedding_mean < (1e-4 if name == "fp16" else 1e-2)
    assert 0 < errors.logit_mean < errors.logit_spread


def test_each_precision_is_a_model_of_its_own(
    bundle: Bundle, converted: dict[str, tuple[Bundle, Errors]]
) -> None:
    names = {other.model_id for other, _ in converted.values()}
    assert len(names | {bundle.model_id}) == 5


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_runs_it(
    bundle: Bundle, converted: dict[str, tuple[Bundle, Errors]], samples: Samples, name: str
) -> None:
    reference, engine = Engine(bundle, threads=1), Engine(converted[name][0], threads=1)
    texts, images = engine.encode_texts(samples.texts), engine.encode_images(samples.pixels)
    assert np.abs(np.linalg.norm(texts.embeddings, axis=1) - 1).max() < 1e-3
    logits = engine.match(texts.states, images.states)
    wanted = reference.match(
        reference.encode_texts(samples.texts).states,
        reference.encode_images(samples.pixels).states,
    )
    assert np.corrcoef(logits, wanted)[0, 1] > 0.95
    # One text against all pictures, as a search does it.
    assert engine.match(texts.states[:1], images.states).shape == (len(samples),)


@pytest.mark.parametrize("name", ["int8", "fp16"])
def test_a_pair_has_the_same_logit_in_any_company(
    converted: dict[str, tuple[Bundle, Errors]], samples: Samples, name: str
) -> None:
    """States made a moment ago, alone, against those of a batch, as a snapshot has them."""
    engine = Engine(converted[name][0], threads=1)
    texts, images = engine.encode_texts(samples.texts), engine.encode_images(samples.pixels)
    together = engine.match(texts.states, images.states)
    for row in range(0, len(samples), 5):
        text = engine.encode_texts(samples.texts[row : row + 1])
        image = engine.encode_images(samples.pixels[row : row + 1])
        (alone,) = engine.match(text.states, image.states)
        assert abs(alone - together[row]) < (1e-4 if name == "int8" else 1e-2)


def test_fp16_keeps_what_goes_in_and_out(converted: dict[str, tuple[Bundle, Errors]]) -> None:
    for name in ("text_encoder", "image_encoder", "matcher"):
        graph = onnx.load(str(converted["fp16"][0].path / f"{name}.onnx")).graph
        kinds = {entry.type.tensor_type.elem_type for entry in (*graph.input, *graph.output)}
        assert onnx.TensorProto.FLOAT16 not in kinds
        halves = [w for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT16]
        assert halves


def test_what_is_not_fp32_is_no_reference(
    converted: dict[str, tuple[Bundle, Errors]], tmp_path: Path
) -> None:
    for name in ("int8", "fp32"):
        with pytest.raises(BundleError, match=rf"is of {name} and made for serving"):
            convert_bundle(converted[name][0], tmp_path / "bundle", "fp16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("factor", [1e6, np.nan])  # beyond what fp16 holds, and no number at all
def test_what_computes_something_else_is_refused(
    bundle: Bundle, tmp_path: Path, factor: float
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle.path, broken)
    graph = onnx.load(str(broken / "text_encoder.onnx"))
    for weight in graph.graph.initializer:
        if weight.name.endswith("text_embeddings.norm.weight"):
            values = onnx.numpy_helper.to_array(weight) * np.float32(factor)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(graph, str(broken / "text_encoder.onnx"))
    kept = {
        field.name: getattr(bundle.manifest, field.name)
        for field in dataclasses.fields(Manifest)
        if field.name not in ("model_id", "files", "format", "checksum")
    }
    write_manifest(broken, **kept)
    told = r"in fp16 the model computes something else than in fp32 .* it was not written"
    with pytest.raises(BundleError, match=told):
        convert_bundle(Bundle.open(broken), tmp_path / "fp16", "fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_what_overflows_inside_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    """Up before an activation, down after it: no output of a processor shows it."""
    torch.manual_seed(3)
    config = new_config("tiny", vocab_size=bundle.manifest.config["vocab_size"], image_size=64)
    model = new_model(config)
    with torch.no_grad():
        for layer in model.layers:
            layer.intermediate.weight.mul_(3e5)
            layer.output.weight.div_(3e5)
    reference, _ = export_bundle(model, bundle.path / "tokenizer.json", tmp_path / "reference")
    told = r"in fp16 some values in text_encoder\.onnx and .* are beyond 65,504, .* not written"
    with pytest.raises(BundleError, match=told):
        convert_bundle(reference, tmp_path / "fp16", "fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["reference"]


@pytest.mark.parametrize("bias", [0.0, 0.3])
def test_an_fp16_pair_is_the_same_beside_a_longer_text(
    bias: float, bundle: Bundle, tmp_path: Path
) -> None:
    """A padded token's alignment is nothing by nothing where its bias is 0."""
    torch.manual_seed(3)
    config = new_config(
        "tiny", vocab_size=bundle.manifest.config["vocab_size"], image_size=64, alignment_size=16
    )
    model = new_model(config)
    torch.nn.init.constant_(model.alignment_head.text.bias, bias)
    reference, _ = export_bundle(model, bundle.path / "tokenizer.json", tmp_path / "reference")
    engine = Engine(convert_bundle(reference, tmp_path / "fp16", "fp16")[0], threads=1)
    texts = engine.encode_texts(["red dress", "a long red cotton dress with white dots"])
    images = engine.encode_images(noise(64).pixels)
    together = engine.match(texts.states[[0, 1]], images.states[:2])
    alone = [engine.match(texts.states[[n]], images.states[[n]])[0] for n in range(2)]
    np.testing.assert_allclose(together, alone, atol=0.02)


def test_samples_are_spread_over_the_catalogue(catalogue: Catalogue) -> None:
    few = samples_of(catalogue, 64, 3)
    products = catalogue.products
    assert list(few.texts) == [products[row].text for row in (0, 47, 95)]
    assert (few.pixels.shape, few.pixels.dtype) == ((3, 64, 64, 3), np.uint8)
    assert len(samples_of(catalogue, 64, 1000)) == len(products)


def test_the_loss_in_ranks(
    bundle: Bundle,
    converted: dict[str, tuple[Bundle, Errors]],
    demo_catalogue: Path,
) -> None:
    with read_catalogue(demo_catalogue / "val.csv") as unseen:
        trial = RankTrial(bundle, unseen, group_by="product_type", queries=8)
        assert {found["loss"] for found in trial.loss(bundle)["rank1"].values()} == {0.0}
        told = trial.loss(converted["int8"][0])
    assert told["queries"] == 8
    for found in told["rank1"].values():
        assert found["loss"] == pytest.approx(found["fp32"] - found["here"], abs=0.01)
        assert 0 <= found["here"] <= 100


def test_fp32_is_fused_and_computes_the_same(
    bundle: Bundle, samples: Samples, converted: dict[str, tuple[Bundle, Errors]]
) -> None:
    fused, _ = converted["fp32"]
    assert Graphs(bundle).largest_difference(Graphs(fused), samples) <= 1e-5
    kinds = {
        node.op_type
        for name in GRAPHS
        for node in onnx.load(str(fused.path / f"{name}.onnx")).graph.node
    }
    assert "Attention" in kinds
    assert fused.manifest.metrics["precision"]["reference"] == bundle.model_id != fused.model_id


def test_fused_graphs_that_compute_something_else_are_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.precision.TOLERANCE", 1e-12)  # rounding alone is more
    with pytest.raises(BundleError, match=r"fused, the graphs differ by .* was not written"):
        convert_bundle(bundle, tmp_path / "fp32", "fp32")
    assert list(tmp_path.iterdir()) == []
