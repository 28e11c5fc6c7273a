"""An fp32 graph in int8, for processors.

What is done, and to what:

    word embeddings     int8 with a scale a row
    large matrices      int8 with a scale a column, times activations in uint8: 8-bit arithmetic
                        (`com.microsoft.MatMulIntegerToFloat`, bias included)
    convolutions        int8 with a scale a channel, activations in uint8, if calibrated; but
                        for the first stage's
    everything else     fp32: layer norms, attention's softmax, and the heads, which are small

With samples to calibrate on, activations have fixed ranges, so an item gives the same numbers
whatever shares its pass. A few channels of a BERT are several times as large as all others and
would leave those few of the 256 levels. Before a product that widens they hand some of their size
over to their row of the matrix (SmoothQuant; Xiao et al., arXiv 2211.10438); before one that
narrows they are multiplied apart, in fp32 (as in LLM.int8(); Dettmers et al., arXiv 2208.07339).
Which where was measured: the squared error falls to a tenth (docs/EXPERIMENTS.md).

Without samples, products measure their input's range in each pass (`DynamicQuantizeLinear`, over
the whole batch), and convolutions stay fp32 with int8 weights that ONNX Runtime unfolds at load.

Weights are symmetric and use all of −127…127. A processor with VNNI (or Arm's dot product) sums
uint8 × int8 products exactly. One without saturates 16-bit sums, so there, and only there, the
sessions ask for ONNX Runtime's slower exact kernels (`model.eight_bit`). That is why
`reduce_range`, a bit less for everyone, is not used.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, TensorProto, helper

from model.graphs import Feeds
from model.onnx_graph import Graph, products
from model.quantise_cnn import quantise_convolutions, store_convolutions
from model.quantise_products import activation_ranges, quantise_products, symmetric
from model.smooth_values import smooth_values


def quantise_graph(model: ModelProto, width: int, samples: Sequence[Feeds]) -> ModelProto:
    """A fused fp32 graph in int8.

    Args:
        model: what `model.fuse.fuse` gives; used up.
        width: the hidden width H; matrices smaller than H × H stay in fp32.
        samples: inputs to calibrate on, of one item each, so that none is padded; may be empty.
    """
    model = store_words(model)
    model = quantise_convolutions(model, samples) if samples else store_convolutions(model)
    sources = {node.input[0] for node in products(Graph(model), width)}
    ranges = activation_ranges(model, sources, samples) if samples else {}
    model, ranges = smooth_values(model, width, ranges)
    return quantise_products(model, width, ranges)


def store_words(model: ModelProto) -> ModelProto:
    """The table that the graph's own input looks words up in: int8, with a scale a row."""
    graph = Graph(model)
    inputs = {entry.name for entry in model.graph.input}
    for node in list(graph.nodes):
        table = graph.constant(node.input[0]) if node.op_type == "Gather" else None
        if table is None or table.ndim != 2 or node.input[1] not in inputs:
            continue
        values, scales = symmetric(table, axis=1)
        name = node.output[0]
        rows = graph.add_constant(f"{node.input[0]}_int8", values)
        row_scales = graph.add_constant(f"{node.input[0]}_scales", scales)
        new = [
            helper.make_node("Gather", [rows, node.input[1]], [f"{name}_int8"]),
            helper.make_node("Gather", [row_scales, node.input[1]], [f"{name}_scales"]),
            helper.make_node("Cast", [f"{name}_int8"], [f"{name}_whole"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_whole", f"{name}_scales"], [name]),
        ]
        graph.replace(node, new)
    return graph.finish()
