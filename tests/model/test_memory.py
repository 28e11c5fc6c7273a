from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle import Bundle
from model.errors import OutOfMemoryError
from model.memory import MemoryWatch, halving, is_out_of_memory

# In a process of its own, since the allocator that is limited is shared by all sessions.
_LIMITED = """
import sys, numpy as np, onnxruntime as ort
from model.memory import halving
from model.errors import OutOfMemoryError
limit, size = int(sys.argv[2]), int(sys.argv[3])
about = ort.OrtMemoryInfo(
    "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
)
ort.create_and_register_allocator(about, ort.OrtArenaCfg(limit, 1, -1, -1))
options = ort.SessionOptions()
options.log_severity_level = 4
options.add_session_config_entry("session.use_env_allocators", "1")
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
sizes = []
def compute(part):
    session.run(None, {"pixels": np.zeros((len(part), size, size, 3), dtype=np.uint8)})
    sizes.append(len(part))
for rows in (1, 2, 4, 8, 16, 32, 64, 128, 256):
    sizes.clear()
    try:
        halving(compute)(np.arange(rows))
        print("ran", sizes)
    except OutOfMemoryError as error:
        print("refused", error)
        break
"""


def test_onnx_runtime_says_so_and_halves_are_tried(bundle: Bundle) -> None:
    graph = bundle.path / "image_encoder.onnx"
    arguments = [str(graph), str(48 * 2**20), str(bundle.manifest.image_size)]
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, *arguments], capture_output=True, text=True, check=True
    )
    *ran, halved, refused = done.stdout.splitlines()
    fitted = len(ran)
    assert ran == [f"ran [{2**power}]" for power in range(fitted)]
    assert halved == f"ran [{2 ** (fitted - 1)}, {2 ** (fitted - 1)}]"
    assert refused.startswith(f"refused a pass over {2**fitted} rows does not fit")


def test_other_errors_are_not_tried_again() -> None:
    seen: list[int] = []

    def broken(rows: NDArray[np.int64]) -> None:
        seen.append(len(rows))
        raise ValueError("the graph is broken")

    with pytest.raises(ValueError, match="broken"):
        halving(broken)(np.arange(8))
    assert seen == [8]
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA failure 2: out of memory"))
    assert not is_out_of_memory(RuntimeError("bad graph"))


def test_one_failure_is_not_yet_a_state() -> None:
    watch = MemoryWatch()

    def fail() -> None:
        with pytest.raises(OutOfMemoryError), watch.watching("matcher"):
            raise OutOfMemoryError("no room")

    fail()
    assert not watch.exhausted
    fail()
    assert watch.exhausted
    with watch.watching("matcher"):
        pass
    with watch.watching("text_encoder") as fits:
        fits()
    assert watch.exhausted, "nothing was tried"
    with watch.watching("matcher") as fits:
        fits()
    assert not watch.exhausted, "it fits again"
    late = MemoryWatch(seconds=0)
    for _ in range(3):
        with pytest.raises(OutOfMemoryError), late.watching("matcher"):
            raise OutOfMemoryError("no room")
    assert not late.exhausted, "nobody would come if that lasted for ever"
