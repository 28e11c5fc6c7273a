from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from model.bundle import Bundle
from model.fuse import fold_known_sizes, fuse, fuse_attention, simplify
from model.graphs import GRAPHS, Feeds, Graphs
from model.onnx_graph import Graph
from model.samples import Samples, noise


def run(model: ModelProto, feeds: Feeds) -> list[NDArray[Any]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[NDArray[Any]] = session.run(None, feeds)
    return outputs


def graph(bundle: Bundle, name: str) -> ModelProto:
    return onnx.load(str(bundle.path / f"{name}.onnx"))


@pytest.fixture(scope="module")
def samples(bundle: Bundle) -> Samples:
    return noise(bundle.manifest.image_size, 3)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_fused_graph_computes_the_same(bundle: Bundle, samples: Samples, name: str) -> None:
    model = graph(bundle, name)
    fused = fuse(copy.deepcopy(model))
    onnx.checker.check_model(fused)
    for feeds in Graphs(bundle).feeds(samples)[name]:
        for ours, theirs in zip(run(fused, feeds), run(model, feeds), strict=True):
            assert np.abs(ours - theirs).max() <= 1e-5
    kinds = Counter(node.op_type for node in fused.graph.node)
    assert kinds["MultiHeadAttention"] > 0
    assert kinds["MultiHeadAttention"] == Counter(n.op_type for n in model.graph.node)["Erf"], (
        "one a layer, as there is one GELU a layer"
    )
    assert kinds["Softmax"] < kinds["MultiHeadAttention"], "but for that of the alignment, none"
    assert {entry.domain for entry in fused.opset_import} == {"", "com.microsoft"}


def test_padding_stays_masked_and_one_side_may_be_alone(bundle: Bundle, samples: Samples) -> None:
    model = graph(bundle, "matcher")
    fused = fuse(copy.deepcopy(model))
    pairs = Graphs(bundle).feeds(samples)["matcher"]
    text, other = pairs[0], pairs[-1]
    length = other["text_scales"].shape[1]
    padding = length - text["text_scales"].shape[1]
    assert padding > 0
    values = np.pad(text["text_states"], ((0, 0), (0, padding), (0, 0)))
    scales = np.pad(text["text_scales"], ((0, 0), (0, padding)))
    feeds = {
        "text_states": np.concatenate([values, other["text_states"]]),
        "text_scales": np.concatenate([scales, other["text_scales"]]),
        "image_states": text["image_states"],  # one picture against two texts
        "image_scales": text["image_scales"],
    }
    (logits,) = run(fused, feeds)
    assert logits.shape == (2,)
    assert np.abs(logits - run(model, feeds)[0]).max() <= 1e-5
    assert abs(logits[0] - run(fused, text)[0][0]) <= 1e-5


def test_the_last_layer_cuts_its_weights_once(bundle: Bundle) -> None:
    model = graph(bundle, "matcher")
    found = Graph(fuse(model))
    products = [node for node in found.nodes if node.op_type == "MatMul"]
    width = bundle.manifest.hidden_size
    constants = [found.constant(node.input[1]) for node in products]
    sizes = [value.shape for value in constants if value is not None]
    assert (width, width) in sizes  # the query of [CLS]
    assert (width, 2 * width) in sizes  # keys and values


def model_of(nodes: list[onnx.NodeProto], **constants: NDArray[Any]) -> ModelProto:
    """x [batch, 3, 4] → y."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    weights = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "test", inputs, outputs, weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_only_what_is_known_is_folded() -> None:
    node = helper.make_node
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "last"], ["width"]),
        node("Gather", ["shape", "first"], ["batch"]),
        node("Concat", ["batch", "width", "three"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    model = model_of(
        nodes, last=np.array([2]), first=np.array([0]), three=np.array([3], dtype=np.int64)
    )
    folded = fold_known_sizes(copy.deepcopy(model))
    kinds = Counter(entry.op_type for entry in folded.graph.node)
    assert kinds == {"Shape": 1, "Gather": 1, "Constant": 1, "Concat": 1, "Reshape": 1}
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert run(folded, {"x": x})[0].shape == (2, 4, 3)


def test_another_softmax_is_left_alone() -> None:
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "weight"], ["scores"]),
        node("Softmax", ["scores"], ["shares"]),
        node("MatMul", ["shares", "weight"], ["y"]),
    ]
    model = simplify(model_of(nodes, weight=np.eye(4, dtype=np.float32)))
    before = [entry.op_type for entry in model.graph.node]
    assert [entry.op_type for entry in fuse_attention(model).graph.node] == before
