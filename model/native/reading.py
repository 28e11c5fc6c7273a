"""The weights of a `matcher.onnx` in int8 or fp32, found in its graph.

What is looked for is what `model.fuse` and `model.quantise_graph` write. A graph that differs is
refused, never guessed at: ONNX Runtime then runs it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from model.native.structures import LANES, MOST_APART, PANEL
from model.onnx_graph import Graph, attributes, products

Array = NDArray[Any]

#: H, at most.
MOST_HIDDEN = 4096


class UnknownGraphError(Exception):
    """The graph is not one that the compiled matcher computes; says in what."""


@dataclass(slots=True)
class Rounding:
    """A product's 8 bits: its input is uint8(x · `factors` [K] / `scale` + `zero`), its matrix int8
    with `scales` [N]; and the channels `apart` of x, in fp32, are multiplied by `apart_rows`."""

    scales: Array
    factors: Array
    scale: float
    zero: int
    apart: Array
    apart_rows: Array


@dataclass(slots=True)
class ProductWeights:
    """A product with `weight` [K, N], int8 or float32, plus `bias` [N]."""

    weight: Array
    bias: Array
    rounding: Rounding | None = None


@dataclass(slots=True)
class NormWeights:
    """A layer norm: `weight` and `bias` [H]."""

    weight: Array
    bias: Array
    epsilon: float


@dataclass(slots=True)
class LayerWeights:
    """A layer: its first product, of all three projections or, in the last, of the query; then
    attended, intermediate, output."""

    products: list[ProductWeights]
    norms: list[NormWeights]


@dataclass(slots=True)
class StackedWeights:
    """A stacked score: projections [H, D] with biases [D]; `salience` [H] of the alignment's."""

    weight: float
    text: Array
    text_bias: Array
    image: Array
    image_bias: Array
    salience: Array | None = None


@dataclass(slots=True)
class MatcherWeights:
    """All of a matcher. `keys` [heads, H / heads, H] and `values` [heads, H, H / heads] with
    `value_bias` [H] are the last layer's; logit = `classifier` [H] · tanh(`pooler` [H, H] x +
    `pooler_bias` [H]) + `shift`, and stacked scores."""

    hidden: int
    heads: int
    layers: list[LayerWeights]
    keys: Array
    values: Array
    value_bias: Array
    pooler: Array = field(default_factory=lambda: np.empty(0))
    pooler_bias: Array = field(default_factory=lambda: np.empty(0))
    classifier: Array = field(default_factory=lambda: np.empty(0))
    shift: float = 0.0
    recall: StackedWeights | None = None
    alignment: StackedWeights | None = None


def read_matcher(file: Path) -> MatcherWeights:
    """The weights of a matcher in int8 or fp32.

    Raises:
        UnknownGraphError: it is another graph than those that are known.
    """
    return _Reader(Graph(onnx.load(str(file)))).matcher()


@dataclass(slots=True)
class _Reader:
    graph: Graph
    seen: dict[str, list[NodeProto]] = field(default_factory=dict)
    eight_bit: bool = False

    def __post_init__(self) -> None:
        for node in self.graph.nodes:
            self.seen.setdefault(node.op_type, []).append(node)

    def matcher(self) -> MatcherWeights:
        norms = self._kind("LayerNormalization")
        _expect(bool(norms), "it has no layers")
        nodes = self._kind("MatMulIntegerToFloat")
        self.eight_bit = bool(nodes)
        nodes = nodes or products(self.graph, len(self._constant(norms[0].input[1])))
        count = len(nodes) // 4
        _expect(count > 0 and len(nodes) == 4 * count, f"it has {len(nodes)} large products")
        _expect(len(norms) == 2 * count, f"it has {len(norms)} norms in {count} layers")
        _expect(len(self._kind("Erf")) == count, "its activation is not the exact GELU")
        _expect(len(self._kind("Attention")) == count - 1, "its attention is not fused")
        layers = [
            LayerWeights(
                [self._product(node) for node in nodes[4 * i : 4 * i + 4]],
                [self._norm(node) for node in norms[2 * i : 2 * i + 2]],
            )
            for i in range(count)
        ]
        by_head = self._by_head()
        keys, values = (self._constant(node.input[1]) for node in by_head)
        heads, width, hidden = keys.shape
        _expect(values.shape == (heads, hidden, width), "its last layer's values are of other size")
        self._check_scales(nodes[-4], heads, width)
        for layer in layers:
            _check_sizes(layer, hidden, layer is layers[-1])
        _expect(hidden == heads * width and width % LANES == 0, f"its heads are {width} wide")
        _expect(hidden <= MOST_HIDDEN, f"it is {hidden} wide")
        weights = MatcherWeights(hidden, heads, layers, keys, values, self._value_bias(by_head[1]))
        self._add_heads(weights)
        _check_arrays(weights)
        return weights

    def _kind(self, kind: str) -> list[NodeProto]:
        return self.seen.get(kind, [])

    def _constant(self, name: str) -> Array:
        value = self.graph.constant(name)
        _expect(value is not None, f"{name} is not constant")
        assert value is not None
        return value

    def _made(self, name: str, *kinds: str) -> NodeProto:
        """What makes a value, through nodes of these kinds, the first input of each."""
        made: NodeProto
        for kind in kinds:
            node = self.graph.maker(name, kind)
            _expect(node is not None, f"{name} does not come of {kind}")
            assert node is not None
            made, name = node, node.input[0]
        return made

    # Layers.

    def _product(self, node: NodeProto) -> ProductWeights:
        weight = self._constant(node.input[1])
        inner, columns = weight.shape
        kind = np.int8 if self.eight_bit else np.float32
        _expect(
            weight.dtype == kind and inner % LANES == 0 and columns % PANEL == 0,
            f"{node.name} is {weight.dtype} [{inner}, {columns}]",
        )
        if not self.eight_bit:
            return ProductWeights(weight, self._added(node, columns)[1])
        names = [*node.input, "", "", ""][:7]
        _expect(not names[5], f"{node.name} has a zero point for its matrix")
        bias = self._constant(names[6]) if names[6] else np.zeros(columns, dtype=np.float32)
        scales = np.broadcast_to(self._constant(names[3]), (columns,))
        rounded = self._made(names[0], "QuantizeLinear")
        source, factors = rounded.input[0], np.ones(inner, dtype=np.float32)
        smoothed = self.graph.maker(source, "Mul")
        if smoothed is not None:
            by = self.graph.constant(smoothed.input[1])
            if by is not None and by.shape == (inner,):
                factors = by
        _expect(list(rounded.input[1:3]) == [names[2], names[4]], f"{node.name} has other scales")
        scale, zero = (self._constant(name) for name in rounded.input[1:3])
        _expect(
            scale.size == zero.size == 1 and zero.dtype == np.uint8,
            f"{node.name} rounds its input to {zero.dtype}, by {scale.size} scales",
        )
        _expect(self._added(node, columns)[0] is node, f"a constant is added after {node.name}")
        apart = self._apart(node, columns, rounded.input[0])
        return ProductWeights(
            weight, bias, Rounding(scales, factors, scale.item(), zero.item(), *apart)
        )

    def _added(self, node: NodeProto, columns: int) -> tuple[NodeProto, Array]:
        """What adds a constant vector to an fp32 product, and the vector; or the product itself."""
        added = self.graph.reader(node.output[0], "Add")
        for name in added.input if added is not None else ():
            vector = self.graph.constant(name)
            if added is not None and vector is not None and vector.shape == (columns,):
                return added, vector
        return node, np.zeros(columns, dtype=np.float32)

    def _apart(self, node: NodeProto, columns: int, source: str) -> tuple[Array, Array]:
        """Channels that are multiplied in fp32 and added; most products have none."""
        added = self.graph.reader(node.output[0], "Add")
        for name in added.input if added is not None else ():
            beside = self.graph.maker(name, "MatMul")
            taken = None if beside is None else self.graph.maker(beside.input[0], "Gather")
            if beside is None or taken is None:
                continue
            _expect(taken.input[0] == source, f"{node.name} has channels of something else apart")
            channels = self._constant(taken.input[1]).reshape(-1)
            rows = self._constant(beside.input[1])
            _expect(
                len(channels) <= MOST_APART and rows.shape == (len(channels), columns),
                f"{node.name} has {len(channels)} channels apart",
            )
            return channels, rows
        return np.empty(0, dtype=np.int64), np.empty((0, columns), dtype=np.float32)

    def _norm(self, node: NodeProto) -> NormWeights:
        return NormWeights(
            self._constant(node.input[1]),
            self._constant(node.input[2]),
            float(attributes(node)["epsilon"]),
        )

    def _by_head(self) -> list[NodeProto]:
        """The last layer's two products by head with constant matrices, of keys and of values."""
        found = []
        for node in self._kind("MatMul"):
            matrix = self.graph.constant(node.input[1])
            if matrix is not None and matrix.ndim == 3:
                found.append(node)
        _expect(len(found) == 2, f"it has {len(found)} products by head in its last layer")
        return found

    def _value_bias(self, values: NodeProto) -> Array:
        """What is added to the heads' values, joined."""
        node = values
        for kind in ("Transpose", "Reshape", "Add"):
            after = self.graph.reader(node.output[0], kind)
            _expect(after is not None, f"no {kind} follows its last layer's values")
            assert after is not None
            node = after
        constants = [
            value for name in node.input if (value := self.graph.constant(name)) is not None
        ]
        _expect(len(constants) == 1, "its last layer's values have no constant bias")
        return constants[0]

    def _check_scales(self, query: NodeProto, heads: int, width: int) -> None:
        if not self.eight_bit:
            query, _ = self._added(query, heads * width)
        scaled = self.graph.reader(query.output[0], "Mul")
        factors = [None if scaled is None else self.graph.scalar(scaled.input[1])]
        for node in self._kind("Attention"):
            given = attributes(node)
            factors.append(given.get("scale"))
            known = {"scale", "q_num_heads", "kv_num_heads"}
            _expect(
                set(given) <= known and len(node.input) == 4 and all(node.input),
                f"its attention has {', '.join(sorted(set(given) - known)) or 'other inputs'}",
            )
            _expect(
                given.get("q_num_heads") == given.get("kv_num_heads") == heads,
                "its layers have different numbers of heads",
            )
        for factor in factors:
            _expect(
                factor is not None and math.isclose(factor, width**-0.5, rel_tol=1e-6),
                f"its attention is scaled by {factor}",
            )

    # Heads.

    def _add_heads(self, weights: MatcherWeights) -> None:
        """The logit is a sum: of the classifier's, of stacked scores, of constants."""
        for name, factor in self._terms(self.graph.model.graph.output[0].name, 1.0):
            if not name:
                weights.shift += factor
            elif (squeezed := self.graph.maker(name, "Squeeze")) is not None:
                _expect(not weights.pooler.size, "it has two classifiers")
                self._classifier(weights, squeezed, factor)
            else:
                score = self._made(name, "ReduceSum", "Mul")
                if self.graph.maker(score.input[0], "ReduceMax"):
                    weights.alignment = self._alignment(score, factor)
                else:
                    weights.recall = self._recall(score, factor)
        _expect(bool(weights.pooler.size), "it has no classifier")

    def _terms(self, name: str, factor: float) -> list[tuple[str, float]]:
        """What a value is the sum of: names with their factors, and constants under no name."""
        cast = self.graph.maker(name, "Cast")
        if cast is not None and attributes(cast)["to"] == TensorProto.FLOAT:
            return self._terms(cast.input[0], factor)
        added = self.graph.maker(name, "Add")
        if added is not None:
            return [term for part in added.input for term in self._terms(part, factor)]
        known = self.graph.scalar(name)
        if known is not None:
            return [("", factor * known)]
        scaled = self.graph.maker(name, "Mul")
        for at in (0, 1) if scaled is not None else ():
            assert scaled is not None
            by = self.graph.scalar(scaled.input[at])
            if by is not None:
                return self._terms(scaled.input[1 - at], factor * by)
        return [(name, factor)]

    def _gemm(self, node: NodeProto) -> tuple[Array, Array]:
        """A Gemm's matrix as [K, N], and its bias."""
        given = attributes(node)
        _expect(
            given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0 and not given.get("transA"),
            f"{node.name} is scaled or turned",
        )
        weight = self._constant(node.input[1])
        return weight.T if given.get("transB") else weight, self._constant(node.input[2])

    def _classifier(self, weights: MatcherWeights, squeezed: NodeProto, factor: float) -> None:
        last = self._made(squeezed.input[0], "Gemm")
        pooler = self._made(last.input[0], "Tanh", "Gemm")
        norm = self._made(pooler.input[0], "Gather", "LayerNormalization")
        gather = self._made(pooler.input[0], "Gather")
        first = self.graph.scalar(gather.input[1]) == 0 and attributes(gather).get("axis") == 1
        _expect(first, "it does not pool the first state")
        _expect(norm is self._kind("LayerNormalization")[-1], "it pools another layer")
        weights.pooler, weights.pooler_bias = self._gemm(pooler)
        classifier, bias = self._gemm(last)
        weights.classifier = classifier.reshape(-1) * np.float32(factor)
        weights.shift += factor * float(bias.reshape(-1)[0])

    def _recall(self, score: NodeProto, factor: float) -> StackedWeights:
        """cos(projected mean of the text's states, that of the picture's)."""
        text = image = None
        for name in score.input:
            projection = self._made(name, "Div", "Gemm")
            if self.graph.maker(projection.input[0], "ReduceMean"):
                image = self._gemm(projection)
            else:
                self._made(projection.input[0], "Div", "ReduceSum")
                text = self._gemm(projection)
        _expect(text is not None and image is not None, "its recall score has one side")
        assert text is not None
        assert image is not None
        return _stacked(factor, text, image)

    def _alignment(self, score: NodeProto, factor: float) -> StackedWeights:
        """The mean of each token's best cosine with a patch, by the tokens' salience."""
        cosines = self._made(score.input[0], "ReduceMax", "MatMul")
        text = self._projection(self._made(cosines.input[0], "Div").input[0])
        turned = self._made(cosines.input[1], "Transpose", "Div")
        image = self._projection(turned.input[0])
        masked = self._made(score.input[1], "Softmax", "Add")
        squeezed = [node for name in masked.input if (node := self.graph.maker(name, "Squeeze"))]
        _expect(len(squeezed) == 1, "its tokens' weights are not known")
        salience, _ = self._projection(squeezed[0].input[0])  # a bias changes no softmax
        return _stacked(factor, text, image, salience.reshape(-1))

    def _projection(self, name: str) -> tuple[Array, Array]:
        """A MatMul with a constant, and the constant that is added; one of nought is left out."""
        added = self.graph.maker(name, "Add")
        matrix = bias = None
        for part in added.input if added is not None else (name,):
            product = self.graph.maker(part, "MatMul")
            if product is None:
                bias = self.graph.constant(part)
            else:
                matrix = self.graph.constant(product.input[1])
        _expect(matrix is not None, f"{name} is no projection")
        assert matrix is not None
        return matrix, np.zeros(matrix.shape[1], np.float32) if bias is None else bias


def _stacked(
    factor: float,
    text: tuple[Array, Array],
    image: tuple[Array, Array],
    salience: Array | None = None,
) -> StackedWeights:
    size = text[0].shape[1]
    _expect(size % LANES == 0 and image[0].shape[1] == size, f"a stacked score is {size} wide")
    return StackedWeights(factor, *text, *image, salience)


def _check_sizes(layer: LayerWeights, hidden: int, last: bool) -> None:
    inner = layer.products[2].weight.shape[1]
    expected = [(hidden, hidden if last else 3 * hidden), (hidden, hidden)]
    expected += [(hidden, inner), (inner, hidden)]
    found = [product.weight.shape for product in layer.products]
    _expect(found == expected, f"a layer's products are {found}")
    for product in layer.products[:3]:
        apart = product.rounding is not None and product.rounding.apart.size
        _expect(not apart, "a product but a layer's last has channels apart")


def _check_arrays(weights: MatcherWeights) -> None:
    """Every array that C reads has the size that C takes it to have."""
    hidden = weights.hidden
    sized: list[tuple[Array, tuple[int, ...]]] = [
        (weights.value_bias, (hidden,)),
        (weights.pooler, (hidden, hidden)),
        (weights.pooler_bias, (hidden,)),
        (weights.classifier, (hidden,)),
    ]
    for layer in weights.layers:
        sized += [(part, (hidden,)) for norm in layer.norms for part in (norm.weight, norm.bias)]
        for product in layer.products:
            inner, columns = product.weight.shape
            sized.append((product.bias, (columns,)))
            if (rounding := product.rounding) is not None:
                sized += [(rounding.scales, (columns,)), (rounding.factors, (inner,))]
                _expect(
                    all(0 <= channel < inner for channel in rounding.apart.tolist()),
                    f"channels {rounding.apart} of {inner} are apart",
                )
    for score in (weights.recall, weights.alignment):
        if score is not None:
            size = score.text.shape[1]
            sized += [(part, (hidden, size)) for part in (score.text, score.image)]
            sized += [(part, (size,)) for part in (score.text_bias, score.image_bias)]
            if score.salience is not None:
                sized.append((score.salience, (hidden,)))
    for array, shape in sized:
        _expect(array.shape == shape, f"an array of {shape} is {array.shape}")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UnknownGraphError(otherwise)
