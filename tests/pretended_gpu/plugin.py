"""A pytest plugin: trainings and evaluations choose the pretended GPU, as they would a real one.

python -m pytest -p tests.pretended_gpu.plugin tests/model/test_train.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate.state
import torch
from accelerate import Accelerator

import model.evaluate_checkpoint
import model.mixed_precision
import model.train
from tests.pretended_gpu.device import register

_FOLDER = Path(__file__).parents[2] / ".cache" / "pretended_gpu"
_DEVICE = register(_FOLDER)


class _OnDevice(Accelerator):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "cpu": False})


def _computes_bf16(device: torch.device) -> bool:
    return device == _DEVICE


_chosen = model.evaluate_checkpoint._device

accelerate.state.PartialState.default_device = property(lambda state: _DEVICE)
model.train.Accelerator = _OnDevice
model.train.computes_bf16 = _computes_bf16
model.mixed_precision.computes_bf16 = _computes_bf16
model.evaluate_checkpoint._device = lambda name: _chosen(name) if name else _DEVICE
