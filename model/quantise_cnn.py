"""The CNN of an fp32 graph in int8: see `model.quantise_graph` for what and why."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from model.graphs import Feeds
from model.onnx_graph import Graph, attributes
from model.quantise_products import symmetric

_CNN = ("Conv", "Relu", "MaxPool", "Add")


def store_convolutions(model: ModelProto) -> ModelProto:
    """Convolutions' weights in int8 with a scale a channel, computed with in fp32."""
    graph = Graph(model)
    for node in list(graph.nodes):
        weight = graph.constant(node.input[1]) if node.op_type == "Conv" else None
        if weight is None:
            continue
        values, scales = symmetric(weight, axis=tuple(range(1, weight.ndim)))
        name = node.input[1]
        stored = graph.add_constant(f"{name}_int8", values)
        channel_scales = graph.add_constant(f"{name}_scales", scales)
        unfold = [
            # Plain arithmetic: ONNX Runtime folds it at load, a DequantizeLinear it would keep.
            helper.make_node("Cast", [stored], [f"{name}_whole"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_whole", channel_scales], [f"{name}_fp32"]),
        ]
        node.input[1] = f"{name}_fp32"
        graph.replace(node, [*unfold, node])
    return graph.finish()


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    """Samples as ONNX Runtime's calibration reads them."""

    def __init__(self, samples: Iterable[Feeds]) -> None:
        self._left = iter(samples)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        sample = next(self._left, None)
        return None if sample is None else dict(sample)


def quantise_convolutions(model: ModelProto, samples: Sequence[Feeds]) -> ModelProto:
    """The CNN in 8-bit arithmetic, by ONNX Runtime's own tool: QDQ, a scale a channel."""
    nodes = _cnn_nodes(model)
    if not nodes:
        return model
    add_pre_process_metadata(model)  # or it advises to do what `simplify` has done
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "quantised.onnx"
        quantize_static(
            model,
            target,
            _Samples(samples),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_CNN),
            nodes_to_quantize=[node.name for node in nodes],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return Graph(onnx.load(str(target))).finish()


def _cnn_nodes(model: ModelProto) -> list[NodeProto]:
    """The CNN's nodes to quantise, which get names: convolutions and what lies between them.

    The first stage, all before the second convolution with a stride, stays in fp32: that takes a
    third off the error of a score for a seventh more of its time (docs/EXPERIMENTS.md). Of a CNN
    without such a one the first convolution does.
    """
    strided = [node for node in model.graph.node if node.op_type == "Conv" and _stride(node) > 1]
    made: set[str] = set()
    nodes = []
    begun = len(strided) < 2
    first = next((node for node in model.graph.node if node.op_type == "Conv"), None)
    for number, node in enumerate(model.graph.node):
        begun = begun or node is strided[1]
        if node.op_type not in _CNN or node is first:
            continue
        if node.op_type == "Conv" or made.issuperset(node.input):
            made.update(node.output)
            node.name = f"cnn_{number}"
            if begun:
                nodes.append(node)
    return nodes


def _stride(node: NodeProto) -> int:
    strides: list[int] = attributes(node).get("strides", [1])
    return max(strides)
