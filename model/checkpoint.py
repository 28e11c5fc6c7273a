"""Checkpoints: what a run's best/ folder holds, and its way into a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from model.bundle import Bundle
from model.config import FashionBertConfig
from model.errors import TrainingError
from model.export import export_bundle
from model.network import FashionBertModel

FILES = ("config.json", "model.safetensors", "tokenizer.json")

#: Buffers that a run fits to unseen products at its end.
_FITTED = tuple(
    f"match_head.{name}" for name in ("match_weight", "recall_weight", "alignment_weight", "shift")
)


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
        loaded: Any = FashionBertModel.from_pretrained(folder, output_loading_info=True)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise _unloadable(folder, str(error).splitlines()[0]) from error
    model: FashionBertModel
    model, found = loaded
    # transformers draws what is missing at random, and says so in a log line only.
    for kind in ("missing_keys", "unexpected_keys"):
        if names := sorted(found[kind]):
            raise _unloadable(folder, f"{kind.replace('_', ' ')}: {', '.join(names[:3])}")
    return model


def started_model(config: FashionBertConfig, checkpoint: FashionBertModel) -> FashionBertModel:
    """A model with a checkpoint's weights; heads that the checkpoint has not are freshly drawn.

    What was fitted to unseen products at the end of its training starts anew.

    Raises:
        TrainingError: the configuration wants another shape.
    """
    weights = checkpoint.state_dict()
    model = FashionBertModel(config)
    for name, target in model.state_dict().items():
        if name not in weights or name in _FITTED:
            continue
        if target.shape != weights[name].shape:
            raise TrainingError(
                f"the checkpoint is of another shape: its {name} is {tuple(weights[name].shape)}, "
                f"the options of this run make it {tuple(target.shape)}; give those that the "
                "checkpoint was trained with"
            )
        target.copy_(weights[name])
    return model


def _unloadable(folder: Path, reason: str) -> TrainingError:
    return TrainingError(
        f"{folder} cannot be loaded ({reason}): it is damaged or of another shape than its "
        "config.json"
    )


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
        try:
            training = json.loads((checkpoint / "training.json").read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingError(
                f"{checkpoint / 'training.json'} is not JSON ({error}): it is damaged; without "
                "the file the bundle would have no calibration and no text template"
            ) from error
    slope, intercept = training.get("calibration", (1.0, 0.0))
    return export_bundle(
        model,
        checkpoint / "tokenizer.json",
        folder,
        calibration=(slope, intercept),
        text_template=training.get("text_template"),
        metrics=training.get("figures"),
    )
