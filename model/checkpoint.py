"""Checkpoints: what a run's best/ folder holds, and its way into a bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from tokenizers import Tokenizer

from model.bundle import Bundle
from model.config import FashionBertConfig
from model.errors import TrainingError
from model.export import export_bundle
from model.network import FashionBertModel
from model.patches import CropPatches, GridPatches

FILES = ("config.json", "model.safetensors", "tokenizer.json")

#: Buffers that a run fits to unseen products at its end.
_FITTED = tuple(
    f"match_head.{name}" for name in ("match_weight", "recall_weight", "alignment_weight", "shift")
)


def lacks_of_checkpoint(folder: Path) -> str | None:
    """Why a folder is no checkpoint, for people; None if it is one.

    Raises:
        OSError: it cannot be read.
    """
    lacking = [name for name in FILES if not (folder / name).is_file()]
    if not lacking:
        return None
    if (folder / "manifest.json").is_file():
        return (
            f"{folder} is no checkpoint, but a bundle, which is served and not trained on: give "
            "the run's best/ folder that it was exported from"
        )
    return f"{folder} is no checkpoint (it has no {lacking[0]}): give a run's best/ folder"


def load_checkpoint(folder: Path) -> FashionBertModel:
    """Load a checkpoint in evaluation mode.

    Raises:
        TrainingError: a file is missing or of another shape.
    """
    try:
        lacks = lacks_of_checkpoint(folder)
    except OSError as error:
        raise TrainingError(f"{folder} cannot be read: {error.strerror or error}") from error
    if lacks:
        raise TrainingError(lacks)
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
    tokens = _tokens(folder)
    if tokens > model.config.vocab_size:
        reason = f"its tokenizer has {tokens} tokens, its word embeddings {model.config.vocab_size}"
        raise _unloadable(folder, reason)
    # from_pretrained puts new parameters in the place of those that were marked as frozen. Without
    # the mark the features that the run has computed would not be found again.
    if isinstance(model.patch_network, CropPatches | GridPatches):
        model.patch_network.freeze()
    return model


def _tokens(folder: Path) -> int:
    """The embeddings that a checkpoint's tokenizer needs."""
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers has no type of its own for it
        raise _unloadable(folder, f"tokenizer.json: {error}") from error
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


#: The heads that a run can draw anew, by the task that each is for.
HEADS = {
    "recall": "recall_head.",
    "alignment": "alignment_head.",
    "match": "match_head.",
    "mlm": "masked_language_head.",
    "mpm": "masked_patch_head.",
}


def started_model(
    config: FashionBertConfig, checkpoint: FashionBertModel, fresh: Sequence[str] = ()
) -> FashionBertModel:
    """A model with a checkpoint's weights; heads that the checkpoint has not are freshly drawn.

    What was fitted to unseen products at the end of its training starts anew.

    Args:
        config: the model's.
        checkpoint: whose weights.
        fresh: heads that are drawn anew all the same, names in `HEADS`.

    Raises:
        TrainingError: the configuration wants another shape, or has not one of the fresh heads.
    """
    weights = checkpoint.state_dict()
    anew = tuple(HEADS[name] for name in fresh)
    model = FashionBertModel(config)
    for head in fresh:
        if not any(name.startswith(HEADS[head]) for name in model.state_dict()):
            raise TrainingError(
                f"fresh={head!r}: the network of this run has no such head: leave it out"
            )
    for name, target in model.state_dict().items():
        if name not in weights or name in _FITTED or name.startswith(anew):
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


def read_training(folder: Path) -> dict[str, Any]:
    """A checkpoint's training.json: what its training knows; nothing where there is none.

    Of what is there, `calibration` is (slope, intercept), two finite numbers, `figures` an object,
    `step` a whole number and `text_template` a text or None.

    Raises:
        TrainingError: it is damaged.
    """
    source = folder / "training.json"
    if not source.is_file():
        return {}
    try:
        training = json.loads(source.read_text(encoding="utf-8"))
        if not isinstance(training, dict):
            raise ValueError("it holds no object")
        if "calibration" in training:
            training["calibration"] = _calibration(training["calibration"])
        for name, kind in (
            ("figures", dict),
            ("step", int),
            ("text_template", str | None),
        ):
            if name in training and not isinstance(training[name], kind):
                raise ValueError(f"its {name} is {training[name]!r:.40}")
    except (OSError, ValueError, RecursionError) as error:
        raise TrainingError(
            f"{source} cannot be used ({error}): it is damaged; without the file the checkpoint "
            "has no calibration and no text template, and --text must say the template"
        ) from error
    return training


def _calibration(value: Any) -> tuple[float, float]:
    numbers = value if isinstance(value, list) else []
    if [type(number) in (int, float) and math.isfinite(number) for number in numbers] != [True] * 2:
        raise ValueError(f"its calibration is {value!r:.40}, not two numbers")
    return float(numbers[0]), float(numbers[1])


def export_checkpoint(checkpoint: Path, folder: Path) -> tuple[Bundle, float]:
    """Export a checkpoint with what its training knows: text template, calibration, figures.

    Returns:
        The bundle, and the largest difference between torch and ONNX Runtime.

    Raises:
        TrainingError: as `load_checkpoint`.
        BundleError: as `model.export.export_bundle`.
    """
    model = load_checkpoint(checkpoint)
    training = read_training(checkpoint)
    slope, intercept = training.get("calibration", (1.0, 0.0))
    return export_bundle(
        model,
        checkpoint / "tokenizer.json",
        folder,
        calibration=(slope, intercept),
        text_template=training.get("text_template"),
        metrics=training.get("figures"),
    )
