"""An ONNX graph as passes over it need it: who makes a value, who reads it, what is constant."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

#: The domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"


class Graph:
    """A model's graph with what a pass asks of it: who makes a value, who reads it, constants."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.nodes: list[NodeProto] = list(model.graph.node)
        self.index()

    def index(self) -> None:
        """Look at the nodes again, after some were replaced."""
        self._maker = {name: node for node in self.nodes for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._constants = {entry.name: entry for entry in self.model.graph.initializer}
        self._outputs = {entry.name for entry in self.model.graph.output}

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value of a weight or a constant, or None where it is computed."""
        entry = self._constants.get(name)
        return None if entry is None else numpy_helper.to_array(entry)

    def scalar(self, name: str) -> float | None:
        """As `constant`, of one number."""
        value = self.constant(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None

    def maker(self, name: str, kind: str) -> NodeProto | None:
        """The node that computes a value, if it is of this kind."""
        node = self._maker.get(name)
        return node if node is not None and node.op_type == kind else None

    def reader(self, name: str, kind: str) -> NodeProto | None:
        """The only node of this kind that reads a value; those that ask for its shape aside."""
        readers = [node for node in self._readers.get(name, []) if node.op_type != "Shape"]
        if len(readers) != 1 or readers[0].op_type != kind or name in self._outputs:
            return None
        return readers[0]

    def add_constant(self, name: str, value: NDArray[Any]) -> str:
        """Put a constant into the graph; the same name twice is the same constant."""
        if name not in self._constants:
            self.model.graph.initializer.append(numpy_helper.from_array(value, name))
            self._constants[name] = self.model.graph.initializer[-1]
        return name

    def replace(self, old: NodeProto, new: list[NodeProto]) -> None:
        """Put nodes in the place of one; `index` shows them to later questions."""
        place = next(i for i, node in enumerate(self.nodes) if node is old)
        self.nodes[place : place + 1] = new

    def finish(self) -> ModelProto:
        """The model with what nothing needs any more left out, each node after what it reads."""
        needed = set(self._outputs)
        kept: list[NodeProto] = []
        for node in reversed(_sorted(self.nodes)):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node.input)
        del self.model.graph.node[:]
        self.model.graph.node.extend(reversed(kept))
        weights = [entry for entry in self.model.graph.initializer if entry.name in needed]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(weights)
        del self.model.graph.value_info[:]
        _keep_domains(self.model)
        return self.model


def _sorted(nodes: list[NodeProto]) -> list[NodeProto]:
    """Each node after those that make what it reads; otherwise in their order."""
    made = {name for node in nodes for name in node.output if name}
    done: set[str] = set()
    ready: list[NodeProto] = []
    waiting = list(nodes)
    while waiting:
        later = []
        for node in waiting:
            if any(name in made and name not in done for name in node.input):
                later.append(node)
            else:
                ready.append(node)
                done.update(node.output)
        if len(later) == len(waiting):
            raise ValueError(f"{later[0].op_type} {later[0].name} reads what comes of it")
        waiting = later
    return ready


def attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def products(graph: Graph, width: int) -> list[NodeProto]:
    """The products with a constant matrix of at least H × H on the right."""
    found = []
    for node in graph.nodes:
        weight = graph.constant(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None and weight.ndim == 2 and weight.size >= width * width:
            found.append(node)
    return found


def _keep_domains(model: ModelProto) -> None:
    """Only the operator sets that are used: ONNX Runtime lists all it knows when it saves."""
    used = {node.domain for node in model.graph.node}
    versions = {entry.domain: entry.version for entry in model.opset_import}
    versions.setdefault(MICROSOFT, 1)
    del model.opset_import[:]
    model.opset_import.extend(
        helper.make_opsetid(domain, versions[domain]) for domain in sorted(used | {""})
    )
