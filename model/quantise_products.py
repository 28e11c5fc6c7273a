"""Products with large matrices in 8-bit arithmetic: see `model.quantise_graph` for what and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from model.graphs import Feeds
from model.onnx_graph import MICROSOFT, Graph, products

#: Smallest and largest value of each channel of an activation.
Range = tuple[NDArray[np.float32], NDArray[np.float32]]

#: How much of an activation channel's size its matrix row takes over, 0 to 1.
SMOOTHING = 0.5
#: A channel is apart if it is this many times as large as 99 % of them; at most so many are.
APART = 2.0
MOST_APART = 8


def activation_ranges(
    model: ModelProto, names: Iterable[str], samples: Iterable[Feeds]
) -> dict[str, Range]:
    """The range of each channel, the last axis, of activations; empty without samples."""
    wanted = sorted(names)
    if not wanted:  # of no names ONNX Runtime gives all outputs
        return {}
    probed = ModelProto()
    probed.CopyFrom(model)
    there = {entry.name for entry in probed.graph.output}
    probed.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in wanted
        if name not in there
    )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        probed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    ranges: dict[str, Range] = {}
    for sample in samples:
        for name, value in zip(wanted, session.run(wanted, dict(sample)), strict=True):
            flat = value.reshape(-1, value.shape[-1])
            low, high = flat.min(0), flat.max(0)
            if name in ranges:
                low, high = np.minimum(low, ranges[name][0]), np.maximum(high, ranges[name][1])
            ranges[name] = low, high
    return ranges


def quantise_products(model: ModelProto, width: int, ranges: Mapping[str, Range]) -> ModelProto:
    """Large products in 8-bit arithmetic, each with its bias; inputs at these ranges, if known."""
    graph = Graph(model)
    for number, node in enumerate(products(graph, width)):
        weight = graph.constant(node.input[1])
        assert weight is not None
        end, bias = _biased(graph, node, weight.shape[1])
        product = _Product(graph, f"product_{number}", node.input[0], weight)
        graph.replace(end, product.nodes(end.output[0], bias, ranges.get(node.input[0])))
    return graph.finish()


@dataclass(slots=True)
class _Product:
    """One product on its way to 8 bits: `source` [..., C] times `weight` [C, N]."""

    graph: Graph
    name: str
    source: str
    weight: NDArray[np.float32]

    def nodes(self, target: str, bias: str | None, bounds: Range | None) -> list[NodeProto]:
        """What computes `target`; the input is measured in each pass if there are no bounds."""
        if bounds is None:
            return [self._dynamic(), self._multiply(target, bias)]
        rows, columns = self.weight.shape
        if rows <= columns:
            return [*self._smoothed(bounds), self._multiply(target, bias)]
        sizes = np.maximum(-bounds[0], bounds[1])
        largest = np.argsort(-sizes)[:MOST_APART]
        apart = np.sort(largest[sizes[largest] > APART * np.quantile(sizes, 0.99)])
        if not apart.size:
            return [self._quantised(self.source, bounds), self._multiply(target, bias)]
        before = self._multiplied_apart(apart)
        left = (np.delete(bounds[0], apart), np.delete(bounds[1], apart))
        rest = f"{self.name}_rest"
        return [
            *before,
            self._quantised(self.source, left),
            self._multiply(rest, bias),
            helper.make_node("Add", [rest, f"{self.name}_apart"], [target]),
        ]

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        return self.graph.add_constant(f"{self.name}_{name}", value)

    def _dynamic(self) -> NodeProto:
        outputs = [f"{self.name}_{part}" for part in ("uint8", "scale", "zero")]
        return helper.make_node("DynamicQuantizeLinear", [self.source], outputs)

    def _quantised(self, source: str, bounds: Range) -> NodeProto:
        """uint8 of a fixed range, in which nought is exact; what is beyond it saturates."""
        low, high = min(float(bounds[0].min()), 0.0), max(float(bounds[1].max()), 0.0)
        scale = (high - low) / 255 or 1.0
        inputs = [
            source,
            self._constant("scale", np.array(scale, dtype=np.float32)),
            self._constant("zero", np.array(np.rint(-low / scale), dtype=np.uint8)),
        ]
        return helper.make_node("QuantizeLinear", inputs, [f"{self.name}_uint8"])

    def _smoothed(self, bounds: Range) -> list[NodeProto]:
        """Channels divided by what their row of the matrix is multiplied by."""
        factors = smoothing_factors(bounds, self.weight)
        if np.allclose(factors, 1, rtol=1e-3):  # what makes the input has seen to it
            return [self._quantised(self.source, bounds)]
        self.weight = self.weight * factors[:, None]
        smoothed = f"{self.name}_smoothed"
        inputs = [self.source, self._constant("factors", 1 / factors)]
        return [
            helper.make_node("Mul", inputs, [smoothed]),
            self._quantised(smoothed, (bounds[0] / factors, bounds[1] / factors)),
        ]

    def _multiplied_apart(self, channels: NDArray[np.int64]) -> list[NodeProto]:
        """A few channels times their rows, in fp32; in the matrix those rows become nought."""
        taken = f"{self.name}_taken"
        rows = self._constant("rows", self.weight[channels])
        self.weight = self.weight.copy()
        self.weight[channels] = 0
        return [
            helper.make_node(
                "Gather", [self.source, self._constant("channels", channels)], [taken], axis=-1
            ),
            helper.make_node("MatMul", [taken, rows], [f"{self.name}_apart"]),
        ]

    def _multiply(self, target: str, bias: str | None) -> NodeProto:
        values, scales = symmetric(self.weight, axis=0)
        inputs = [
            f"{self.name}_uint8",
            self._constant("weight", values),
            f"{self.name}_scale",
            self._constant("weight_scales", scales.reshape(-1)),
            f"{self.name}_zero",
        ]
        if bias is not None:
            inputs += ["", bias]
        return helper.make_node(
            "MatMulIntegerToFloat", inputs, [target], name=self.name, domain=MICROSOFT
        )


def smoothing_factors(bounds: Range, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the input's channels are divided by and the matrix's rows multiplied by: [C].

    Of a channel and a row that are as large as each other it is 1.
    """
    sizes = np.maximum(-bounds[0], bounds[1]).clip(1e-5)
    rows = np.abs(weight).max(axis=1).clip(1e-5)
    factors: NDArray[np.float32] = (sizes**SMOOTHING / rows ** (1 - SMOOTHING)).astype(np.float32)
    return factors


def _biased(graph: Graph, product: NodeProto, size: int) -> tuple[NodeProto, str | None]:
    """The addition of a constant vector after a product, and the vector; or the product, None."""
    added = graph.reader(product.output[0], "Add")
    for name in added.input if added is not None else ():
        vector = graph.constant(name)
        if added is not None and vector is not None and vector.shape == (size,):
            return added, name
    return product, None


def symmetric(
    weight: NDArray[Any], axis: int | tuple[int, ...]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 values and float32 scales, one scale for all that lies along `axis`."""
    steps = np.abs(weight).max(axis=axis, keepdims=True) / np.float32(127)
    scales = np.where(steps > 0, steps, np.float32(1)).astype(np.float32)
    return np.rint(weight / scales).astype(np.int8), scales
