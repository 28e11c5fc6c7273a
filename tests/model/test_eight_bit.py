from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from model.eight_bit import exact_8_bit, sums_exactly


def test_sums_that_16_bits_cannot_hold_are_exact() -> None:
    weight = np.full((64, 32), 127, dtype=np.int8)
    weight[::3] = -127
    product = helper.make_node("MatMulInteger", ["x", "weight"], ["y"])
    graph = helper.make_graph(
        [product],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [4, 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [4, 32])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    exact_8_bit(options)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = np.full((4, 64), 255, dtype=np.uint8)
    x[1, ::2] = 254
    wanted = x.astype(np.int32) @ weight.astype(np.int32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], wanted)


@pytest.mark.parametrize(
    ("machine", "flags", "exact"),
    [
        ("x86_64", "fpu sse2 avx2", False),
        ("x86_64", "fpu avx2 avx512f avx512_vnni", True),
        ("AMD64", "fpu avx2 avx_vnni", True),
        ("aarch64", "", True),
    ],
)
def test_which_processors_need_other_kernels(
    machine: str, flags: str, exact: bool, tmp_path: Path
) -> None:
    cpus = tmp_path / "cpuinfo"
    cpus.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert sums_exactly(machine, cpus) is exact


def test_a_processor_that_nothing_tells_of_is_taken_for_one(tmp_path: Path) -> None:
    assert not sums_exactly("x86_64", tmp_path / "none")
