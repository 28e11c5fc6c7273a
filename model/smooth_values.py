"""Smoothing of attention's output without an operation of its own.

Before a large product the channels of its input are divided by factors, which the product's matrix
takes over (`model.quantise_products`). What attention gives is a weighted mean of values, channel
by channel, so there the matrix that makes the values can be divided instead, to the same numbers:
one pass over memory less a layer, about a hundredth of the matcher's time (docs/EXPERIMENTS.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from model.onnx_graph import Graph, products
from model.quantise_products import Range, smoothing_factors

#: What may lie between the product that makes queries, keys and values, and the cut into the three.
_MOVES = ("Gather", "Flatten")


def smooth_values(
    model: ModelProto, width: int, ranges: dict[str, Range]
) -> tuple[ModelProto, dict[str, Range]]:
    """Divide values by the factors of the products that follow attention.

    Args:
        model: fused for `cpu`, in fp32; used up.
        width: the hidden width H.
        ranges: of the activations.

    Returns:
        The model, and the ranges as they are now; both unchanged where it looks different.
    """
    graph, smoothed = Graph(model), dict(ranges)
    for product in products(graph, width):
        source = product.input[0]
        attention = graph.maker(source, "Attention")
        projection = None if attention is None else _projection(graph, attention.input[2])
        if projection is None or source not in ranges:
            continue
        made, added = projection
        weight = graph.constant(product.input[1])
        assert weight is not None  # `products` has looked
        low, high = ranges[source]
        factors = smoothing_factors(ranges[source], weight)
        _set(graph, product, 1, weight * factors[:, None])
        for node, at in ((made, 1), (added, _constant_input(graph, added))):
            values = _constant(graph, node.input[at]).copy()
            values[..., -len(factors) :] /= factors
            _set(graph, node, at, values)
        smoothed[source] = low / factors, high / factors
        graph.index()
    return graph.finish(), smoothed


def _projection(graph: Graph, values: str) -> tuple[NodeProto, NodeProto] | None:
    """The product and the bias's addition whose last third is the values; or None."""
    split = graph.maker(values, "Split")
    if split is None or list(split.output).index(values) != len(split.output) - 1:
        return None
    name = split.input[0]
    while _is_read_once(graph, name) and (move := _move(graph, name)) is not None:
        name = move.input[0]
    added = graph.maker(name, "Add")
    if added is None or not _is_read_once(graph, name):
        return None
    for inner in added.input:
        made = graph.maker(inner, "MatMul")
        if made is not None and graph.constant(made.input[1]) is not None:
            return made, added
    return None


def _move(graph: Graph, name: str) -> NodeProto | None:
    return next((node for kind in _MOVES if (node := graph.maker(name, kind))), None)


def _is_read_once(graph: Graph, name: str) -> bool:
    return any(graph.reader(name, kind) is not None for kind in ("Split", *_MOVES))


def _constant_input(graph: Graph, node: NodeProto) -> int:
    return next(at for at, name in enumerate(node.input) if graph.constant(name) is not None)


def _constant(graph: Graph, name: str) -> NDArray[np.float32]:
    value = graph.constant(name)
    assert value is not None
    return value


def _set(graph: Graph, node: NodeProto, at: int, value: NDArray[np.float32]) -> None:
    """Give a node a constant of its own: equal ones may be shared by several."""
    name = f"{node.output[0]}_smoothed_{at}"
    node.input[at] = graph.add_constant(name, value.astype(np.float32))
