"""How fast this machine multiplies matrices and reads memory, with all its cores.

Requests name a `shape` [M, K, N] and a `kind`: `fp32-onnxruntime`, `int8-onnxruntime`,
`fp32-torch` (MKL or oneDNN), `int8-torch` (oneDNN), or `read` and `copy` of `bytes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from protocol import Prepare, serve

_TIMES = 8  # products one after the other in a unit of work, of different inputs


def _session(rows: int, inner: int, columns: int, kind: str) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    source: NDArray[Any]
    weight: NDArray[Any]
    if kind == "fp32":
        source = rng.standard_normal((rows, inner), dtype=np.float32)
        weight = rng.standard_normal((inner, columns), dtype=np.float32)
        node = helper.make_node("MatMul", ["x", "weight"], ["y"])
        constants = {"weight": weight}
        given, made = TensorProto.FLOAT, TensorProto.FLOAT
    else:
        source = rng.integers(0, 256, (rows, inner), dtype=np.uint8)
        weight = rng.integers(-127, 128, (inner, columns), dtype=np.int8)
        names = ["x", "weight", "scale", "scales", "zero"]
        node = helper.make_node("MatMulIntegerToFloat", names, ["y"], domain="com.microsoft")
        constants = {
            "weight": weight,
            "scale": np.array(0.01, dtype=np.float32),
            "scales": np.full(columns, 0.01, dtype=np.float32),
            "zero": np.array(128, dtype=np.uint8),
        }
        given, made = TensorProto.UINT8, TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", given, [rows, inner])],
        [helper.make_tensor_value_info("y", made, [rows, columns])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    # Bound, so that no time goes into making arrays.
    binding = session.io_binding()
    binding.bind_cpu_input("x", source)
    output = ort.OrtValue.ortvalue_from_shape_and_type([rows, columns], np.float32)
    binding.bind_ortvalue_output("y", output)

    def work() -> object:
        for _ in range(_TIMES):
            session.run_with_iobinding(binding)
        return None

    return work


def _torch(rows: int, inner: int, columns: int, kind: str) -> Callable[[], object]:
    if kind == "fp32":
        source, weight = torch.randn(rows, inner), torch.randn(inner, columns)
        target = torch.empty(rows, columns)

        def work() -> object:
            for _ in range(_TIMES):
                torch.mm(source, weight, out=target)
            return None

        return work
    left = torch.randint(-127, 128, (rows, inner), dtype=torch.int8)
    right = torch.randint(-127, 128, (inner, columns), dtype=torch.int8)

    def integers() -> object:
        for _ in range(_TIMES):
            torch._int_mm(left, right)
        return None

    return integers


def _memory(count: int, kind: str) -> Callable[[], object]:
    source = torch.ones(count // 4)
    target = torch.zeros_like(source)
    if kind == "read":
        return lambda: float(source.sum())
    return lambda: bool(target.copy_(source) is None)


def make() -> tuple[Prepare, dict[str, Any]]:
    """No settings."""

    def prepare(request: dict[str, Any]) -> Callable[[], object]:
        kind = request["kind"]
        if kind in ("read", "copy"):
            return _memory(request["bytes"], kind)
        precision, _, by = kind.partition("-")
        rows, inner, columns = request["shape"]
        return (_session if by == "onnxruntime" else _torch)(rows, inner, columns, precision)

    return prepare, {"times": _TIMES, "torch": torch.__version__, "onnxruntime": ort.__version__}


serve(make)
