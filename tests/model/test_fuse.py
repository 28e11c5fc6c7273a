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
from model.export import OPSET
from model.fuse import Device, fold_known_sizes, fuse, fuse_attention, simplify
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


NODES: dict[Device, str] = {"cpu": "Attention", "cuda": "MultiHeadAttention"}


@pytest.mark.parametrize("device", NODES)
@pytest.mark.parametrize("name", GRAPHS)
def test_a_fused_graph_computes_the_same(
    bundle: Bundle, samples: Samples, name: str, device: Device
) -> None:
    model = graph(bundle, name)
    fused = fuse(copy.deepcopy(model), device)
    onnx.checker.check_model(fused)
    for feeds in Graphs(bundle).feeds(samples)[name]:
        for ours, theirs in zip(run(fused, feeds), run(model, feeds), strict=True):
            assert np.abs(ours - theirs).max() <= 1e-5
    kinds = Counter(node.op_type for node in fused.graph.node)
    layers = Counter(n.op_type for n in model.graph.node)["Erf"]  # there is one GELU a layer
    if name == "matcher":
        layers -= 1  # the last one has [CLS] as its only query, and its own way to ask
        assert kinds["Softmax"] <= 2, "that of the last layer, and that of the alignment"
    else:
        assert kinds["Softmax"] == 0
    assert kinds[NODES[device]] == layers > 0
    assert sum(kinds[node] for node in NODES.values()) == layers
    opsets = {entry.domain: entry.version for entry in fused.opset_import}
    assert opsets == ({"": 23} if device == "cpu" else {"": OPSET, "com.microsoft": 1})


@pytest.mark.parametrize("device", NODES)
def test_padding_stays_masked_and_one_side_may_be_alone(
    bundle: Bundle, samples: Samples, device: Device
) -> None:
    model = graph(bundle, "matcher")
    fused = fuse(copy.deepcopy(model), device)
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


def large(found: Graph, width: int) -> list[tuple[str, tuple[int, ...]]]:
    """The products with a constant matrix of at least H × H: what is multiplied, and its shape."""
    constants = [
        (node.input[0], found.constant(node.input[1]))
        for node in found.nodes
        if node.op_type == "MatMul"
    ]
    return [
        (source, value.shape)
        for source, value in constants
        if value is not None and value.size >= width * width
    ]


def test_only_cls_goes_through_the_last_layer(bundle: Bundle, samples: Samples) -> None:
    """One query, and neither keys nor values: their matrices are cut into heads, once."""
    width = bundle.manifest.hidden_size
    inner = bundle.manifest.config["intermediate_size"]
    heads = bundle.manifest.config["num_attention_heads"]
    model = fuse(graph(bundle, "matcher"))
    products = large(Graph(model), width)
    assert [shape for _, shape in products] == [
        *[(width, 3 * width), (width, width), (width, inner), (inner, width)],
        (width, width),  # the query of [CLS]
        (heads, width // heads, width),  # keys, from the query's side
        (heads, width, width // heads),  # values, after they are mixed
        *[(width, width), (width, inner), (inner, width)],
    ]
    rows = rows_of(model, [products[at][0] for at in (4, 7, 8, 9)], samples, bundle)
    assert rows == [3, 3, 3, 3]


def rows_of(model: ModelProto, names: list[str], samples: Samples, bundle: Bundle) -> list[int]:
    """How many vectors each value has where one text of 5 tokens meets three pictures."""
    feeds = Graphs(bundle).feeds(samples)["matcher"]
    probed = copy.deepcopy(model)
    probed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    found = run(
        probed,
        {
            "text_states": feeds[0]["text_states"][:, :5],
            "text_scales": feeds[0]["text_scales"][:, :5],
            **{
                name: np.concatenate([feeds[at][name] for at in (0, 2, 4)])
                for name in ("image_states", "image_scales")
            },
        },
    )
    return [value.size // value.shape[-1] for value in found[1:]]


def test_the_side_that_is_alone_is_projected_once(bundle: Bundle, samples: Samples) -> None:
    width, patches = bundle.manifest.hidden_size, bundle.manifest.patches
    model = fuse(graph(bundle, "matcher"))
    (first, _), (second, _), *_ = large(Graph(model), width)
    rows = rows_of(model, [first, second], samples, bundle)
    assert rows == [5 + 3 * patches, 3 * (5 + patches)]


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
