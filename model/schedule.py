"""What changes as a run goes on, and what learns how fast."""

from __future__ import annotations

import torch
from torch import nn

from model.network import FashionBertModel
from model.train_settings import TrainSettings


def hardness_at(progress: float, settings: TrainSettings) -> float:
    """Share of hard TIA negatives at a point of the run (0…1)."""
    span = max(settings.hard_until - settings.hard_from, 1e-9)
    return min(1.0, max(0.0, (progress - settings.hard_from) / span))


def learning_rate_at(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then linear decay to 0, as a factor.

    Args:
        step: from 0.
        steps: of the run.
        warmup: a share of the steps or, above 1, a number of them, of which a short run takes no
            more than half: it would never get to its rate.
    """
    warm = max(1, round(warmup * steps if warmup <= 1 else min(warmup, steps / 2)))
    return min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))


#: What no text backbone brings along, and what may learn faster therefore.
_HEADS = (
    "patch_embeddings.",
    "recall_head.",
    "alignment_head.",
    "match_head.",
    "masked_language_head.",
    "masked_patch_head.",
)


def new_optimizer(network: FashionBertModel, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW; norms, biases and a CNN do not decay, the heads and a CNN have rates of their own."""
    rates = {
        "backbone": settings.learning_rate,
        "head": settings.head_learning_rate or settings.learning_rate,
        "cnn": settings.cnn_learning_rate,
    }
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "head" if name.startswith(_HEADS) else "backbone"
        if name.startswith("patch_network.cnn"):
            part = "cnn"
        decays = part != "cnn" and parameter.dim() >= 2 and "norm" not in name
        groups.setdefault((part, decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": rates[part],
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for (part, decays), parameters in groups.items()
        ],
        lr=settings.learning_rate,
        betas=settings.betas,
        fused=True,
    )
