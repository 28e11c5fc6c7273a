from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto

from model.bundle import Bundle
from model.eight_bit import exact_8_bit
from model.fuse import fuse
from model.graphs import Feeds, Graphs
from model.onnx_graph import attributes
from model.quantise_cnn import quantise_convolutions
from model.quantise_graph import quantise_graph, store_words
from model.quantise_products import activation_ranges
from model.samples import noise


def run(model: ModelProto, feeds: Feeds) -> np.ndarray:
    options = ort.SessionOptions()
    exact_8_bit(options)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    states: np.ndarray = session.run(["states"], dict(feeds))[0]
    return states


@pytest.fixture(scope="module")
def feeds(bundle: Bundle) -> dict[str, list[Feeds]]:
    return Graphs(bundle).feeds(noise(bundle.manifest.image_size, 6))


def fused(bundle: Bundle, name: str) -> ModelProto:
    return fuse(onnx.load(str(bundle.path / f"{name}.onnx")), "cpu")


def test_words_have_a_scale_each(bundle: Bundle) -> None:
    model = fused(bundle, "text_encoder")
    (look_up,) = [
        node for node in model.graph.node if node.op_type == "Gather" and "input_ids" in node.input
    ]
    before = onnx.numpy_helper.to_array(
        next(entry for entry in model.graph.initializer if entry.name == look_up.input[0])
    )
    stored = store_words(model)
    kept = {entry.name: onnx.numpy_helper.to_array(entry) for entry in stored.graph.initializer}
    assert look_up.input[0] not in kept
    values, scales = kept[f"{look_up.input[0]}_int8"], kept[f"{look_up.input[0]}_scales"]
    assert (values.dtype, values.shape, scales.shape) == (np.int8, before.shape, (len(before), 1))
    assert (np.abs(values * scales - before) <= scales / 2 + 1e-7).all()


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("name", ["text_encoder", "image_encoder"])
def test_a_graph_in_int8(
    bundle: Bundle, feeds: dict[str, list[Feeds]], name: str, calibrated: bool
) -> None:
    model = fused(bundle, name)
    wanted = [run(model, feed) for feed in feeds[name]]
    samples = feeds[name] if calibrated else []
    size = len(model.SerializeToString())
    quantised = quantise_graph(copy.deepcopy(model), bundle.manifest.hidden_size, samples)
    onnx.checker.check_model(quantised)
    assert len(quantised.SerializeToString()) < size * 0.45
    for feed, states in zip(feeds[name], wanted, strict=True):
        found = run(quantised, feed)
        lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(states, axis=-1)
        distance = 1 - (found * states).sum(-1) / lengths
        assert 0 < distance.mean() < 0.02
    kinds = Counter(node.op_type for node in quantised.graph.node)
    convolutions = Counter(node.op_type for node in model.graph.node)["Conv"]
    assert (kinds["DynamicQuantizeLinear"] > 0) == (not calibrated)
    assert (kinds["DequantizeLinear"] > convolutions) == (calibrated and convolutions > 0)
    assert kinds["Conv"] == convolutions


def test_an_item_does_not_depend_on_its_pass(bundle: Bundle, feeds: dict[str, list[Feeds]]) -> None:
    """A picture has the same states alone and beside others: so has a pair its logit."""
    model = quantise_graph(
        fused(bundle, "image_encoder"), bundle.manifest.hidden_size, feeds["image_encoder"]
    )
    pixels = np.concatenate([feed["pixels"] for feed in feeds["image_encoder"]])
    together = run(model, {"pixels": pixels})
    alone = np.concatenate([run(model, {"pixels": one[None]}) for one in pixels])
    assert np.abs(together - alone).max() <= 1e-5


def test_the_first_stage_stays_in_fp32(bundle: Bundle, feeds: dict[str, list[Feeds]]) -> None:
    """All convolutions before the second one with a stride; the rest have 8-bit weights."""
    model = fused(bundle, "image_encoder")
    strided = [
        max(attributes(node)["strides"]) > 1 for node in model.graph.node if node.op_type == "Conv"
    ]
    (first, second, *_) = [at for at, is_strided in enumerate(strided) if is_strided]
    assert first == 0
    model = quantise_convolutions(model, feeds["image_encoder"])
    weights = {entry.name for entry in model.graph.initializer}
    in_fp32 = [node.input[1] in weights for node in model.graph.node if node.op_type == "Conv"]
    assert in_fp32 == [at < second for at in range(len(strided))]


def test_without_products_nothing_is_measured(
    bundle: Bundle, feeds: dict[str, list[Feeds]]
) -> None:
    assert activation_ranges(fused(bundle, "text_encoder"), [], feeds["text_encoder"]) == {}


def test_a_graph_without_a_cnn_has_none_to_quantise(
    bundle: Bundle, feeds: dict[str, list[Feeds]]
) -> None:
    model = fused(bundle, "text_encoder")
    assert quantise_convolutions(copy.deepcopy(model), feeds["text_encoder"]) == model
