"""bf16 where a device computes in it, fp32 where it would only imitate that."""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Literal

import torch

from model.processor import CPUS, is_x86, processor_flags

#: How Linux lists an x86 processor's instructions for products in bf16.
_BF16 = frozenset(("avx512_bf16", "amx_bf16"))


def computes_bf16(device: torch.device) -> bool:
    """Whether products are faster in bf16 than in fp32.

    A processor without instructions for it gives the same numbers a hundred times later: 0.9 for
    139 billion operations a second with AVX2 (docs/EXPERIMENTS.md).
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and processor_computes_bf16()


@functools.cache
def processor_computes_bf16(machine: str = platform.machine(), cpus: Path = CPUS) -> bool:
    """`computes_bf16` of a CPU.

    Args:
        machine: the processor's architecture.
        cpus: Linux's list of processors.
    """
    if is_x86(machine):
        return not _BF16.isdisjoint(processor_flags(cpus))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fitting_precision(device: torch.device) -> Literal["bf16", "no"]:
    """What `mixed_precision="auto"` is on a device, as accelerate names it."""
    return "bf16" if computes_bf16(device) else "no"


def autocast(device: torch.device) -> torch.autocast:
    """Products in bf16, if the device computes in it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=computes_bf16(device))
