from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from accelerate.state import AcceleratorState

from model.mixed_precision import (
    autocast,
    computes_bf16,
    fitting_precision,
    processor_computes_bf16,
)
from model.train import Trainer

if TYPE_CHECKING:
    from tests.model.conftest import Shop

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


@pytest.fixture
def other_precision() -> Iterator[None]:
    """accelerate keeps one precision a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("other_precision")
@pytest.mark.parametrize(
    ("asked", "computes", "taken"),
    [("auto", True, "bf16"), ("auto", False, "no"), ("bf16", False, "bf16"), ("no", True, "no")],
)
def test_a_run_says_what_it_computes_in(
    asked: str,
    computes: bool,
    taken: str,
    shop: Shop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("model.mixed_precision.processor_computes_bf16", lambda: computes)
    settings = dataclasses.replace(shop.settings, mixed_precision=asked)
    told: list[str] = []
    Trainer(settings, shop.learn, None, tmp_path, cache=shop.cache, note=told.append).close()
    assert json.loads((tmp_path / "run.json").read_text())["mixed_precision"] == taken
    assert any("only imitates" in line for line in told) is (taken == "bf16" and not computes)
