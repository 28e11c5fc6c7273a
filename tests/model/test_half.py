from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from model.half import half


def model_of(nodes: list[onnx.NodeProto], **constants: NDArray[Any]) -> ModelProto:
    """x int8 [batch, 4], scale float [batch, 1] → y."""
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.INT8, ["batch", 4]),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, ["batch", 1]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: ModelProto, **feeds: NDArray[Any]) -> NDArray[Any]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[Any] = session.run(["y"], feeds)[0]
    return found


def test_a_constant_may_be_shared_with_a_head() -> None:
    """The head in fp32, the rest in fp16, and the output read inside the graph too."""
    node = helper.make_node
    nodes = [
        node("Cast", ["x"], ["whole"], to=TensorProto.FLOAT),
        node("Mul", ["whole", "scale"], ["values"]),
        node("MatMul", ["values", "weight"], ["states"]),
        node("Add", ["states", "bias"], ["y"]),
        node("Gemm", ["y", "weight", "bias"], ["head"]),
        node("Add", ["head", "bias"], ["z"]),
    ]
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(4, 4)).astype(np.float32)
    model = model_of(nodes, weight=weight, bias=np.ones(4, dtype=np.float32))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 4]))
    feeds = {
        "x": generator.integers(-127, 128, (3, 4), dtype=np.int8),
        "scale": np.full((3, 1), 0.03, dtype=np.float32),
    }
    wanted = run(model, **feeds)
    converted = half(model)
    onnx.checker.check_model(converted)
    found = run(converted, **feeds)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 1e-2
    kinds = {entry.name: entry.data_type for entry in converted.graph.initializer}
    assert kinds["weight"] == TensorProto.FLOAT
    assert kinds["weight_fp16"] == TensorProto.FLOAT16
    assert Counter(node.op_type for node in converted.graph.node)["Gemm"] == 1


def test_what_is_too_large_becomes_the_largest() -> None:
    node = helper.make_node
    nodes = [
        node("Cast", ["x"], ["whole"], to=TensorProto.FLOAT),
        node("Mul", ["whole", "scale"], ["values"]),
        node("Max", ["values", "floor"], ["y"]),
    ]
    converted = half(model_of(nodes, floor=np.array([-1e9], dtype=np.float32)))
    (stored,) = [w for w in converted.graph.initializer if w.name == "floor_fp16"]
    assert numpy_helper.to_array(stored).tolist() == [-65504.0]
    x = np.array([[1, -2, 3, -4]], dtype=np.int8)
    assert (run(converted, x=x, scale=np.ones((1, 1), dtype=np.float32)) == x).all()
