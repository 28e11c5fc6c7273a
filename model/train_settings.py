"""The knobs of a training run, and what each of them may be."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.adaptive import FixedWeights, check_weighting
from model.backbones import known_preset
from model.checkpoint import HEADS, lacks_of_checkpoint
from model.config import PRESETS, FashionBertConfig
from model.errors import TrainingError


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """The knobs of a run; docs and `fashionbert train --help` say what each does.

    `batch_size` is per process. `head_learning_rate` is for what no text backbone brings along, the
    patch embeddings and the heads; None takes `learning_rate`. `hard_from` and `hard_until`
    are shares of the run between which TIA's negatives harden from random to drawn by recall
    similarity. `weighting` of the tasks is one of `model.adaptive.WEIGHTINGS`; `fixed` takes
    `task_weights`, one a task.
    `title_share` of the products are shown by their title alone, `same_group` of them come in
    batches of one sub-category. `patience` counts validations without a better rank. `warmup` is a
    share of the steps or, above 1, a number of them. `rank_loss` adds the rank term to TIA's loss.
    `joint_share` of a batch's products take part in the tasks of the joint layers (match, MLM,
    MPM), whose pairs cost most; all of them in recall and alignment. `mirror` and `shift` are done
    to pictures at random (`model.augmentation`). `keep_maps` computes what a
    CNN's frozen stages put out once and keeps it. `start_from` is a checkpoint whose weights the
    run begins with, but for the heads `fresh` (of `model.checkpoint.HEADS`), which are drawn anew;
    `teacher` is one whose ranking of the match's pairs is learnt too, as the task
    `distillation` (`model.distil`). `mixed_precision` is accelerate's, or `auto`: bf16 where the
    device computes in it (`model.mixed_precision`), else none.
    """

    preset: str = "small"
    text_backbone: str | None = None
    cnn: str | None = None
    vocab_size: int = 4000
    epochs: float = 10
    batch_size: int = 64
    learning_rate: float = 1e-4
    head_learning_rate: float | None = None
    cnn_learning_rate: float = 1e-5
    weighting: str = "equal"
    task_weights: dict[str, float] | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    rank_loss: bool = True
    joint_share: float = 1.0
    keep_maps: bool = False
    start_from: str | None = None
    teacher: str | None = None
    fresh: list[str] | None = None
    negatives: int = 1
    hard_from: float = 0.1
    hard_until: float = 0.6
    same_group: float = 0.5
    group_by: str | None = None
    title_share: float = 0.0
    mirror: bool = True
    shift: bool = True
    mixed_precision: str = "auto"
    seed: int = 0
    validate_every: float = 1.0
    validate_queries: int = 200
    patience: int = 3
    checkpoint_steps: int = 200
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)


def preset_settings(preset: str, **given: Any) -> TrainSettings:
    """The settings of a preset, with those that are given, and not None, in their place.

    Raises:
        TrainingError: there is no such preset.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    if "weighting" in asked:
        asked.setdefault("task_weights", None)  # the preset's go with its own weighting
    own = dict(known_preset(preset).get("training", {}))
    settings = TrainSettings(preset=preset, **{**own, **asked})
    if "task_weights" in asked or settings.task_weights is None:
        return settings
    # A preset weighs all tasks that it can have; of these it has what is asked for.
    weights = {task: settings.task_weights[task] for task in tasks_of(settings)}
    return dataclasses.replace(settings, task_weights=weights)


#: What the network has, by the task that trains it; match is always there.
_TASK_FIELDS = {
    "recall": "recall_size",
    "alignment": "alignment_size",
    "mlm": "mlm",
    "mpm": "mpm",
}


def tasks_of(settings: TrainSettings) -> list[str]:
    """The tasks of a run, by the names that `model.objective` gives their losses."""
    config = {**PRESETS[settings.preset]["config"], **settings.overrides}
    tasks = ["match", *(task for task, field in _TASK_FIELDS.items() if config.get(field))]
    return tasks if settings.teacher is None else [*tasks, "distillation"]


def check_settings(settings: TrainSettings) -> None:
    """Refuse settings that no run can have, before anything is written.

    Raises:
        TrainingError: naming the setting and what it may be.
    """
    known_preset(settings.preset)
    _check_numbers(settings)
    _check_cnn(settings)
    _check_fresh(settings)
    for what, folder in (
        ("the teacher", settings.teacher),
        ("start_from:", settings.start_from),
    ):
        if folder and (lacks := lacks_of_checkpoint(Path(folder))):
            raise TrainingError(f"{what} {lacks}")
    check_weighting(settings.weighting, settings.task_weights)
    if settings.weighting == "fixed":
        FixedWeights(settings.task_weights or {}).check(tasks_of(settings))
    if settings.mixed_precision not in ("auto", "bf16", "fp16", "no"):
        raise TrainingError(f"mixed_precision={settings.mixed_precision!r}: auto, bf16, fp16 or no")
    if settings.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise TrainingError("mixed_precision='fp16' needs a GPU: auto is for both")


def _check_cnn(settings: TrainSettings) -> None:
    """Refuse what is asked of a CNN that there is none of, or that is frozen as a whole."""
    asked = settings.overrides
    config = {**PRESETS[settings.preset]["config"], **asked}
    if config.get("patches", FashionBertConfig.patches) == "conv":
        wanted = {
            "cnn": settings.cnn is not None,
            "freeze_cnn": asked.get("freeze_cnn"),
            "frozen_cnn_stages": asked.get("frozen_cnn_stages"),
            "cnn_image_size": "cnn_image_size" in asked,
        }
        if names := [name for name, given in wanted.items() if given]:
            raise TrainingError(
                f"{names[0]} was given, but the preset {settings.preset!r} has no CNN (it learns a "
                "stem of its own from nothing): leave it out, or choose another preset"
            )
    elif asked.get("frozen_cnn_stages") and config.get("freeze_cnn", FashionBertConfig.freeze_cnn):
        raise TrainingError(
            f"frozen_cnn_stages={asked['frozen_cnn_stages']} is of a CNN that is trained, and here "
            "all of it is frozen: train it with --train-cnn, or leave the stages out"
        )


def _check_fresh(settings: TrainSettings) -> None:
    if not settings.fresh:
        return
    if settings.start_from is None:
        raise TrainingError(
            "fresh heads are for a run that begins with a checkpoint: without --start-from all "
            "heads are drawn anew"
        )
    for name in settings.fresh:
        if name not in HEADS:
            raise TrainingError(f"fresh={name!r}: there is no such head, only {', '.join(HEADS)}")


_ABOVE_0 = (
    "epochs",
    "learning_rate",
    "head_learning_rate",
    "cnn_learning_rate",
    "clip",
    "validate_every",
)
_0_OR_MORE = ("warmup", "weight_decay")
_SHARES = ("same_group", "title_share")
_AT_LEAST = {
    "vocab_size": 1,
    "batch_size": 2,
    "negatives": 1,
    "validate_queries": 1,
    "patience": 1,
    "checkpoint_steps": 1,
}
#: numpy's generators take no seed above.
_LAST_SEED = 2**32 - 1


def _check_numbers(settings: TrainSettings) -> None:
    # Each asks for what must hold, since no comparison does with a nan.
    for name in _ABOVE_0:
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise TrainingError(f"{name}={value:g}: give a number above 0")
    for name in _0_OR_MORE:
        value = getattr(settings, name)
        if not 0 <= value < math.inf:
            raise TrainingError(f"{name}={value:g}: give a number, 0 or more")
    for name in _SHARES:
        value = getattr(settings, name)
        if not 0 <= value <= 1:
            raise TrainingError(f"{name}={value:g}: give a share from 0 to 1")
    for name, least in _AT_LEAST.items():
        value = getattr(settings, name)
        if not value >= least:
            raise TrainingError(f"{name}={value}: give a whole number of at least {least}")
    if not 0 <= settings.seed <= _LAST_SEED:
        raise TrainingError(f"seed={settings.seed}: give a whole number from 0 to {_LAST_SEED}")
    if not 0 < settings.joint_share <= 1:
        raise TrainingError(f"joint_share={settings.joint_share:g}: give a share above 0, up to 1")
    if not 0 <= settings.hard_from <= settings.hard_until <= 1:
        raise TrainingError(
            f"hard_from={settings.hard_from:g}, hard_until={settings.hard_until:g}: give shares of "
            "the run, the first not above the second"
        )
    if not all(0 <= beta < 1 for beta in settings.betas):
        raise TrainingError(f"betas={settings.betas}: give two numbers, 0 or more and below 1")
