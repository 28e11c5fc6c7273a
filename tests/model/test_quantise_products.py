from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from model.eight_bit import exact_8_bit
from model.onnx_graph import Graph, products
from model.quantise_products import activation_ranges, quantise_products, symmetric

Array = NDArray[np.float32]


def linear(weight: Array, bias: Array | None) -> ModelProto:
    """x [batch, 3, C] → y [batch, 3, N]."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y" if bias is None else "xw"])]
    weights = [numpy_helper.from_array(weight, "w")]
    if bias is not None:
        nodes.append(helper.make_node("Add", ["b", "xw"], ["y"]))
        weights.append(numpy_helper.from_array(bias, "b"))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, len(weight)])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "test", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: ModelProto, x: Array) -> Array:
    options = ort.SessionOptions()
    exact_8_bit(options)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: Array = session.run(None, {"x": x})[0]
    return found


def error(model: ModelProto, x: Array, wanted: Array) -> float:
    """Relative squared error."""
    return float(((run(model, x) - wanted) ** 2).sum() / (wanted**2).sum())


def inputs(size: int, outlier: float = 1.0) -> Array:
    """[64, 3, size], one channel larger than the others."""
    x = np.random.default_rng(1).normal(size=(64, 3, size)).astype(np.float32)
    x[:, :, 5] *= outlier
    return x


def weights(rows: int, columns: int) -> Array:
    return np.random.default_rng(2).normal(size=(rows, columns)).astype(np.float32)


@pytest.mark.parametrize("shape", [(32, 64), (64, 64), (64, 32)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
def test_a_product_in_8_bits(shape: tuple[int, int], with_bias: bool, fixed: bool) -> None:
    weight = weights(*shape)
    bias = np.linspace(-5, 5, shape[1], dtype=np.float32) if with_bias else None
    x = inputs(shape[0])
    wanted = x @ weight + (0 if bias is None else bias)
    model = linear(weight, bias)
    ranges = activation_ranges(model, ["x"], [{"x": one[None]} for one in x]) if fixed else {}
    quantised = quantise_products(model, 32, ranges)
    assert 1e-6 < error(quantised, x, wanted) < 1e-3
    kinds = Counter(node.op_type for node in quantised.graph.node)
    assert kinds["MatMulIntegerToFloat"] == 1
    assert kinds["DynamicQuantizeLinear"] == (not fixed)
    assert kinds["Add"] == 0, "the bias is added by the product"
    assert not any(entry.name == "w" for entry in quantised.graph.initializer)


@pytest.mark.parametrize("shape", [(64, 256), (256, 64)])
def test_a_large_channel_does_not_drown_the_others(shape: tuple[int, int]) -> None:
    weight, x = weights(*shape), inputs(shape[0], outlier=40.0)
    wanted = x @ weight
    samples = [{"x": one[None]} for one in x]
    found = quantise_products(
        linear(weight, None), 32, activation_ranges(linear(weight, None), ["x"], samples)
    )
    without = error(quantise_products(linear(weight, None), 32, {}), x, wanted)
    assert error(found, x, wanted) < without / 4
    # Apart where the matrix narrows, and there only.
    taken = [node for node in found.graph.node if node.op_type == "Gather"]
    assert len(taken) == (shape[0] > shape[1])
    if taken:
        channels = Graph(found).constant(taken[0].input[1])
        assert channels is not None
        assert channels.tolist() == [5]


def test_at_fixed_ranges_an_item_does_not_depend_on_its_pass() -> None:
    weight, x = weights(64, 64), inputs(64)
    model = linear(weight, None)
    ranges = activation_ranges(model, ["x"], [{"x": one[None]} for one in x])
    fixed = quantise_products(model, 32, ranges)
    alone = np.concatenate([run(fixed, one[None]) for one in x])
    assert (run(fixed, x) == alone).all()
    dynamic = quantise_products(linear(weight, None), 32, {})
    assert (run(dynamic, x) != np.concatenate([run(dynamic, one[None]) for one in x])).any()


def test_what_lies_beyond_its_range_saturates() -> None:
    weight = np.eye(32, dtype=np.float32)
    ones = np.ones(32, dtype=np.float32)
    fixed = quantise_products(linear(weight, None), 32, {"x": (0 * ones, 2 * ones)})
    x = np.zeros((1, 3, 32), dtype=np.float32)
    x[0, :, 0] = [-3.0, 1.0, 7.0]
    assert np.abs(run(fixed, x)[0, :, 0] - [0.0, 1.0, 2.0]).max() < 0.01
    assert (run(fixed, x)[0, :, 1:] == 0).all(), "nought stays nought"


def test_small_matrices_stay() -> None:
    model = linear(weights(32, 31), None)
    assert products(Graph(model), 32) == []
    assert [node.op_type for node in quantise_products(model, 32, {}).graph.node] == ["MatMul"]


def test_ranges_are_of_each_channel() -> None:
    model = linear(weights(4, 4), None)
    samples: list[dict[str, NDArray[Any]]] = [
        {"x": np.array([[[1, 2, 3, 4], [0, 9, 0, 0], [0, 0, 0, -1]]], dtype=np.float32)},
        {"x": np.array([[[-1, 2, 5, 0], [0, 0, 1, 0], [0, 0, 0, 0]]], dtype=np.float32)},
    ]
    low, high = activation_ranges(model, ["x"], samples)["x"]
    assert (low.tolist(), high.tolist()) == ([-1, 0, 0, -1], [1, 9, 5, 4])


def test_symmetric_weights_keep_their_largest() -> None:
    weight = np.array([[1.0, -4.0, 0.0], [0.5, 3.0, 0.0]], dtype=np.float32)
    values, scales = symmetric(weight, axis=0)
    assert values.tolist() == [[127, -127, 0], [64, 95, 0]]
    assert np.abs(values * scales - weight).max() <= scales.max() / 2
    assert scales.shape == (1, 3)
