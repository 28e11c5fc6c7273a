"""8-bit arithmetic that is exact on every processor."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import onnxruntime as ort

from model.processor import CPUS, processor_flags

#: How Linux lists instructions that sum uint8 × int8 products in 32 bits.
_EXACT = frozenset(("avx512_vnni", "avx_vnni", "amx_int8"))


def exact_8_bit(options: ort.SessionOptions) -> None:
    """Let a session sum 8-bit products exactly.

    x86 processors without VNNI sum pairs of them in 16 bits and saturate. ONNX Runtime has exact
    kernels for those, but where the option is set it uses them on all others too, where they are
    slower: passes took 1.6 times as long on one with AVX-512 VNNI (docs/EXPERIMENTS.md).
    """
    if not sums_exactly():
        options.add_session_config_entry("session.x64quantprecision", "1")


@functools.cache
def sums_exactly(machine: str = platform.machine(), cpus: Path = CPUS) -> bool:
    """Whether the fast kernels are exact: not on x86 without VNNI, nor where nothing tells.

    Args:
        machine: the processor's architecture.
        cpus: Linux's list of processors.
    """
    if machine.lower() not in ("x86_64", "amd64", "i386", "i686"):
        return True
    return not _EXACT.isdisjoint(processor_flags(cpus))
