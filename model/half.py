"""An fp32 graph in fp16, for CUDA: inputs and outputs as they were, sums and heads in fp32.

ONNX Runtime's own converter gives graphs that do not load where a node kept in fp32 shares a
constant with another (1.31), and constants that are equal have been made one here.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper

from model.onnx_graph import MICROSOFT, Graph

#: Sums over many values, comparisons, and heads, whose cost is nothing. Layer norms and the
#: softmax inside an attention add up in fp32 by themselves.
SINGLE = frozenset(
    ("Gemm", "ReduceL2", "ReduceMean", "ReduceSum", "Clip", "Tanh", "Softmax", "Greater")
)
_HALF = "_fp16"
#: Modules that are heads as a whole: their lengths are divided by, and their sum is the score.
HEADS = ("/alignment_head/", "/match_head/")


def with_halves(model: ModelProto) -> ModelProto:
    """The graph with all that it has in fp16 among its outputs, after its own."""
    told = ModelProto()
    told.CopyFrom(model)
    told.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, None)
        for node in model.graph.node
        for name in node.output
        if name.endswith(_HALF)
    )
    return told


def half(model: ModelProto) -> ModelProto:
    """Convert a fused graph; what fp16 cannot hold becomes its largest number."""
    graph = Graph(model)
    conversion = _Conversion(graph, _single_values(model))
    graph.nodes = [new for node in graph.nodes for new in conversion.convert(node)]
    graph.nodes += conversion.outputs([entry.name for entry in model.graph.output])
    return graph.finish()


def _single_values(model: ModelProto) -> set[str]:
    """The names of all values in fp32."""
    told = ModelProto()
    told.CopyFrom(model)
    told.graph.value_info.extend(
        # onnx's inference does not know ONNX Runtime's own operators; all that `fuse` puts there
        # give what they are given.
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for node in model.graph.node
        if node.domain == MICROSOFT
        for name in node.output
    )
    found = onnx.shape_inference.infer_shapes(told).graph
    return {
        entry.name
        for entry in (*found.value_info, *found.input, *found.output)
        if entry.type.tensor_type.elem_type == TensorProto.FLOAT
    }


class _Conversion:
    """Which values are in fp16 by now, as nodes are converted in order.

    Args:
        graph: its nodes are taken one by one.
        single: the names of all values that are in fp32 to begin with.
    """

    def __init__(self, graph: Graph, single: set[str]) -> None:
        self._graph = graph
        self._single = single
        self._halves: set[str] = set()
        self._cast: set[str] = set()

    def convert(self, node: NodeProto) -> list[NodeProto]:
        """The node with inputs of one kind, after the casts that this takes."""
        to_half = node.op_type not in SINGLE and not node.name.startswith(HEADS)
        casts: list[NodeProto] = []
        for place, name in enumerate(node.input):
            node.input[place] = self._as(name, to_half, casts)
        for place, name in enumerate(node.output):
            if name in self._single and to_half:
                self._halves.add(name)
                node.output[place] = _half_name(name)
        if node.op_type == "Cast" and to_half:
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
        return [*casts, node]

    def outputs(self, names: list[str]) -> list[NodeProto]:
        """The graph's outputs in fp32, those that are not."""
        casts: list[NodeProto] = []
        for name in names:
            if name in self._halves:
                self._as(name, False, casts)
        return casts

    def _as(self, name: str, to_half: bool, casts: list[NodeProto]) -> str:
        """The name of a value in fp16, or in fp32, and the cast that makes it, if there is none."""
        constant = self._graph.constant(name)
        if constant is not None:
            if not to_half or constant.dtype != np.float32:
                return name
            limit = np.finfo(np.float16).max
            value = np.clip(constant, -limit, limit).astype(np.float16)
            return self._graph.add_constant(_half_name(name), value)
        if name not in self._single:
            return name
        there = _half_name(name) if name in self._halves else name
        wanted = _half_name(name) if to_half else name
        if there != wanted and wanted not in self._cast:
            self._cast.add(wanted)
            kind = TensorProto.FLOAT16 if to_half else TensorProto.FLOAT
            casts.append(helper.make_node("Cast", [there], [wanted], to=kind))
        return wanted


def _half_name(name: str) -> str:
    return name + _HALF
