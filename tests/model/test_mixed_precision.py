from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.mixed_precision import (
    autocast,
    computes_bf16,
    fitting_precision,
    processor_computes_bf16,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "computes"),
    [
        ("fpu sse2 avx2", False),
        ("fpu avx2 avx512f avx512bw avx512_vnni", False),
        ("fpu avx2 avx512f avx512_bf16", True),
        ("fpu avx2 amx_bf16 amx_tile", True),
    ],
)
def test_which_processors_compute_in_bf16(flags: str, computes: bool, tmp_path: Path) -> None:
    cpus = tmp_path / "cpuinfo"
    cpus.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    assert processor_computes_bf16("x86_64", cpus) is computes


def test_one_that_nothing_tells_of_is_taken_not_to(tmp_path: Path) -> None:
    assert not processor_computes_bf16("x86_64", tmp_path / "none")


@pytest.mark.parametrize("computes", [True, False])
def test_products_are_in_what_the_device_computes_in(
    monkeypatch: pytest.MonkeyPatch, computes: bool
) -> None:
    monkeypatch.setattr("model.mixed_precision.processor_computes_bf16", lambda: computes)
    assert computes_bf16(CPU) is computes
    assert fitting_precision(CPU) == ("bf16" if computes else "no")
    with autocast(CPU):
        product = torch.ones(4, 4) @ torch.ones(4, 4)
    assert product.dtype == (torch.bfloat16 if computes else torch.float32)
