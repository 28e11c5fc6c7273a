"""Checkpoints: what a run's best/ folder holds, and its way into a bundle."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError

from model.bundle import Bundle
from model.errors import TrainingError
from model.export import export_bundle
from model.network import FashionBertModel

FILES = ("config.json", "model.safetensors", "tokenizer.json")


def load_checkpoint(folder: Path) -> FashionBertModel:
    """Load a checkpoint in evaluation mode.

    Raises:
        TrainingError: a file is missing or of another shape.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise TrainingError(
                f"{folder} is no checkpoint (it has no {name}): give a run's best/ folder"
            )
    try:
        model: FashionBertModel = FashionBertModel.from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"{folder} cannot be loaded ({str(error).splitlines()[0]}): it is damaged or of "
            "another shape than its config.json"
        ) from error
    return model


def export_checkpoint(checkpoint: Path, folder: Path) -> tuple[Bundle, float]:
    """Export a checkpoint with what its training knows: text template, calibration, figures.

    Returns:
        The bundle, and the largest difference between torch and ONNX Runtime.

    Raises:
        TrainingError: as `load_checkpoint`.
        BundleError: as `model.export.export_bundle`.
    """
    model = load_checkpoint(checkpoint)
    training = {}
    if (checkpoint / "training.json").is_file():
        training = json.loads((checkpoint / "training.json").read_text(encoding="utf-8"))
    slope, intercept = training.get("calibration", (1.0, 0.0))
    return export_bundle(
        model,
        checkpoint / "tokenizer.json",
        folder,
        calibration=(slope, intercept),
        text_template=training.get("text_template"),
        metrics=training.get("figures"),
    )
