"""What a run of training begins with: what makes it this one, its tokenizer and its network."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from model.backbones import check_tokenizer, known_preset, new_config, new_model
from model.checkpoint import started_model
from model.files import sha256_of
from model.network import FashionBertModel
from model.product import Catalogue
from model.train_settings import TrainSettings
from model.wordpiece import backbone_tokenizer, train_wordpiece


def describe_run(
    settings: TrainSettings, train: Catalogue, valid: Catalogue | None, processes: int
) -> dict[str, Any]:
    """What makes a run this one: its settings, the processes, and the content of all it reads."""
    described = {**dataclasses.asdict(settings), "betas": list(settings.betas)}
    described["processes"] = processes  # with another number, steps and rates are others too
    described["feed"] = train.fingerprint
    described["valid"] = None if valid is None else valid.fingerprint
    for name in ("start_from", "teacher"):
        if (folder := getattr(settings, name)) is not None:
            # It is read again by a run that goes on, and must be what it was.
            described[f"{name}_weights"] = sha256_of(Path(folder) / "model.safetensors")
    return described


def new_tokenizer(settings: TrainSettings, train: Catalogue) -> Tokenizer:
    """That of the checkpoint, the text backbone or the teacher, or one learnt from the texts.

    Raises:
        TrainingError: it cannot be read, or is not what the network needs.
    """
    backbone = _text_backbone(settings)
    if settings.start_from is not None:
        return backbone_tokenizer(settings.start_from)
    if backbone is not None:
        tokenizer = backbone_tokenizer(backbone)
        check_tokenizer(tokenizer, backbone)
        return tokenizer
    if settings.teacher is not None:
        return backbone_tokenizer(settings.teacher)
    return train_wordpiece((product.text for product in train.products), settings.vocab_size)


def new_network(
    settings: TrainSettings, vocab_size: int, start: FashionBertModel | None
) -> FashionBertModel:
    """The network of the preset, with the backbones' weights or those of a checkpoint.

    Args:
        settings: of the run.
        vocab_size: of its tokenizer.
        start: the checkpoint that it begins with, if it does with one.

    Raises:
        TrainingError: an impossible configuration, or weights that cannot be read.
    """
    backbone = _text_backbone(settings)
    config = new_config(
        settings.preset,
        text_backbone=backbone,
        cnn=settings.cnn,
        vocab_size=vocab_size,
        **settings.overrides,
    )
    if start is not None:
        return started_model(config, start, settings.fresh or ())
    return new_model(config, backbone)


def _text_backbone(settings: TrainSettings) -> str | None:
    named: str | None = known_preset(settings.preset)["text_backbone"]
    return settings.text_backbone or named
