"""Exported graphs made smaller before they are quantised: sizes folded, attention in one node.

What is left is portable: the passes of ONNX Runtime's own optimiser that are used (its `basic`
level) know no hardware, and both kinds of attention node are there on every provider.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from model.onnx_graph import MICROSOFT, Graph, attributes

#: What a graph is fused for.
Device = Literal["cpu", "cuda"]

#: The first version of ONNX that has `Attention`.
ATTENTION_OPSET = 23


def fuse(model: ModelProto, device: Device = "cuda") -> ModelProto:
    """Fold and fuse a graph that torch exported; it computes the same, to rounding.

    Args:
        model: used up.
        device: which attention node is used, see `fuse_attention`.
    """
    model = simplify(model)
    nodes = 0
    while nodes != len(model.graph.node):  # what is folded lets more be known
        nodes = len(model.graph.node)
        model = simplify(fold_known_sizes(model))
    return fuse_attention(model, device)


def simplify(model: ModelProto) -> ModelProto:
    """ONNX Runtime's `basic` optimisation: constants folded, batch norms in their convolutions."""
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "simplified.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(saved)
        options.log_severity_level = 3
        ort.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            # A bias stays beside its product: that is what later passes look for.
            disabled_optimizers=["MatMulAddFusion"],
        )
        return Graph(onnx.load(str(saved))).finish()


def fold_known_sizes(model: ModelProto) -> ModelProto:
    """`x.shape[i]` becomes a constant where shape inference knows it.

    The tracer asks for every size at run time, also for the hidden width; so the last layer cuts
    its weights out of a larger matrix in each pass, and no pass sees that they are constant.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    sizes: dict[str, NDArray[Any]] = {
        entry.name: np.array(
            [
                size.dim_value if size.HasField("dim_value") else None
                for size in entry.type.tensor_type.shape.dim
            ],
            dtype=object,
        )
        for entry in (*inferred.graph.value_info, *inferred.graph.input)
        if entry.type.tensor_type.HasField("shape")
    }
    graph = Graph(model)
    # Shapes, and parts of them: entries are None where only the run knows them.
    shapes: dict[str, Any] = {}
    for node in list(graph.nodes):
        if node.op_type == "Shape" and node.input[0] in sizes:
            cut = attributes(node)
            shapes[node.output[0]] = sizes[node.input[0]][cut.get("start", 0) : cut.get("end")]
        elif node.op_type in ("Gather", "Slice") and node.input[0] in shapes:
            part = _part(graph, node, shapes[node.input[0]])
            if part is None:
                continue
            shapes[node.output[0]] = part
            if None not in np.reshape(part, -1).tolist():
                value = numpy_helper.from_array(np.array(part, dtype=np.int64))
                graph.replace(
                    node, [helper.make_node("Constant", [], list(node.output), value=value)]
                )
    return graph.finish()


def _part(graph: Graph, node: NodeProto, shape: NDArray[Any]) -> Any:
    """What a Gather or a Slice takes of a shape, or None where that is computed."""
    inputs = [graph.constant(name) for name in node.input[1:]]
    if node.op_type == "Gather":
        return None if inputs[0] is None else shape[inputs[0]]
    bounds = [int(np.reshape(value, -1)[0]) for value in inputs if value is not None]
    if len(bounds) != len(inputs):
        return None
    start, stop = bounds[:2]
    return shape[start : stop : bounds[3] if len(bounds) > 3 else 1]


def fuse_attention(model: ModelProto, device: Device = "cuda") -> ModelProto:
    """softmax(q·kᵀ + mask)·v over heads becomes one node.

    It splits and joins the heads in place, so the four transposes are gone. What does not look
    exactly like the exporter's attention is left as it is.

    For `cuda` it is `com.microsoft.MultiHeadAttention`, which reads the mask as [B, L]; for `cpu`
    it is ONNX's own `Attention`, which took 0.64 of its time there.

    On CUDA the former has flash kernels, but takes them only where there is no mask of padding
    (multihead_attention.cc: `nullptr == key_padding_mask`); with one of [B, L] the products and the
    softmax are kernels of their own. To be tried next on a GPU: pictures before texts, so that all
    padding is at the end, and the mask as lengths, which the memory-efficient kernel takes.
    """
    graph = Graph(model)
    for node in [node for node in graph.nodes if node.op_type == "Softmax"]:
        found = _attention_of(graph, node)
        if found is not None:
            nodes = _standard(graph, found) if device == "cpu" else _microsoft(graph, found)
            graph.replace(found.end, nodes)
        graph.index()
    model = graph.finish()
    if any(node.op_type == "Attention" for node in model.graph.node):
        for entry in model.opset_import:  # nothing else in here has another meaning there
            if not entry.domain:
                entry.version = max(entry.version, ATTENTION_OPSET)
        model.ir_version = helper.find_min_ir_version_for(model.opset_import, True)
    return model


@dataclass(frozen=True, slots=True)
class _Attention:
    """One attention as the exporter writes it: names of values, and its last node.

    `q`, `k`, `v` are [B, L, H]; `bias` is the additive mask [B, 1, 1, L] and `mask` the [B, L] of 1
    and 0 that it is made of, both None where nothing is masked.
    """

    softmax: str
    q: str
    k: str
    v: str
    heads: int
    scale: float
    bias: str | None
    mask: str | None
    end: NodeProto


def _attention_of(graph: Graph, softmax: NodeProto) -> _Attention | None:
    """The attention that a softmax is in the middle of, or None."""
    bias = mask = None
    scores = graph.maker(softmax.input[0], "MatMul")
    if added := graph.maker(softmax.input[0], "Add"):
        scores = graph.maker(added.input[0], "MatMul")
        bias = added.input[1]
        mask = _mask_of(graph, bias)
        if mask is None:
            return None
    product = graph.reader(softmax.output[0], "MatMul")
    if scores is None or product is None or product.input[0] != softmax.output[0]:
        return None
    q = _heads_of(graph, scores.input[0], [0, 2, 1, 3])
    k = _heads_of(graph, scores.input[1], [0, 2, 3, 1])
    v = _heads_of(graph, product.input[1], [0, 2, 1, 3])
    joined = graph.reader(product.output[0], "Transpose")
    if q is None or k is None or v is None or joined is None:
        return None
    end = graph.reader(joined.output[0], "Reshape")
    if end is None or attributes(joined).get("perm") != [0, 2, 1, 3] or q[1] != k[1]:
        return None
    return _Attention(softmax.name, q[0], k[0], v[0], q[1], q[2] * k[2], bias, mask, end)


def _microsoft(graph: Graph, found: _Attention) -> list[NodeProto]:
    """ONNX Runtime's own node, after what makes its mask."""
    nodes = []
    inputs = [found.q, found.k, found.v]
    if found.mask is not None:
        name = f"{found.mask}_keys"
        if not _is_made(graph, name):
            nodes.append(helper.make_node("Cast", [found.mask], [name], to=onnx.TensorProto.INT32))
        inputs += ["", name]
    attention = helper.make_node(
        "MultiHeadAttention",
        inputs,
        list(found.end.output),
        name=f"{found.softmax}_attention",
        domain=MICROSOFT,
        num_heads=found.heads,
        scale=found.scale,
        mask_filter_value=-1e4,
    )
    return [*nodes, attention]


def _standard(graph: Graph, found: _Attention) -> list[NodeProto]:
    """ONNX's node, after what gives its mask a row for each query, as it wants it."""
    nodes = []
    inputs = [found.q, found.k, found.v]
    if found.bias is not None:
        name = f"{found.bias}_rows"
        if not _is_made(graph, name):
            one = graph.add_constant("attention_one", np.array([1], dtype=np.int64))
            length, shape = f"{name}_length", f"{name}_shape"
            nodes += [
                helper.make_node("Shape", [found.bias], [length], start=3),
                helper.make_node("Concat", [one, one, length, one], [shape], axis=0),
                helper.make_node("Expand", [found.bias, shape], [name]),
            ]
        inputs.append(name)
    attention = helper.make_node(
        "Attention",
        inputs,
        list(found.end.output),
        name=f"{found.softmax}_attention",
        q_num_heads=found.heads,
        kv_num_heads=found.heads,
        scale=found.scale,
    )
    return [*nodes, attention]


def _is_made(graph: Graph, name: str) -> bool:
    return any(name in node.output for node in graph.nodes)


def _heads_of(graph: Graph, name: str, order: list[int]) -> tuple[str, int, float] | None:
    """What was split into heads, [B, L, H]; into how many; and what it was scaled by."""
    factor = 1.0
    if scaled := graph.maker(name, "Mul"):
        known = graph.scalar(scaled.input[1])
        if known is None:
            return None
        factor, name = known, scaled.input[0]
    turned = graph.maker(name, "Transpose")
    if turned is None or attributes(turned).get("perm") != order:
        return None
    split = graph.maker(turned.input[0], "Reshape")
    if split is None:
        return None
    heads = _heads_in(graph, split.input[1])
    return None if heads is None else (split.input[0], heads, factor)


def _heads_in(graph: Graph, shape: str) -> int | None:
    """The third entry of a Reshape's target [B, L, heads, H / heads]."""
    known = graph.constant(shape)
    if known is not None and known.size == 4:
        return int(known[2])
    parts = graph.maker(shape, "Concat")
    if parts is None or len(parts.input) not in (3, 4):
        return None
    # Batch and length may be joined to one part, or the constant end to one.
    ends = [graph.constant(name) for name in parts.input]
    flat = [value for value in ends[1:] if value is not None]
    last = np.concatenate([np.reshape(value, -1) for value in flat]) if flat else np.empty(0)
    return int(last[-2]) if last.size >= 2 else None


def _mask_of(graph: Graph, name: str) -> str | None:
    """The [B, L] mask of 1 and 0 behind (1 − mask) · −10⁴, [B, 1, 1, L]."""
    scaled = graph.maker(name, "Mul")
    turned = graph.maker(scaled.input[0], "Sub") if scaled is not None else None
    if scaled is None or turned is None:
        return None
    if graph.scalar(scaled.input[1]) != -1e4 or graph.scalar(turned.input[0]) != 1:
        return None
    inner: str = turned.input[1]
    for kind in ("Cast", "Unsqueeze", "Unsqueeze"):
        node = graph.maker(inner, kind)
        if node is None and kind != "Cast":
            return None
        inner = node.input[0] if node is not None else inner
    return inner
