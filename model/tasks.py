"""The training tasks: each takes the network's outputs for a batch of B products to one loss.

- recall: symmetric contrastive loss over the batch (InfoNCE, CLIP's form).
- alignment: the same over token-to-patch scores, where the configuration has them.
- match: text and image alignment (TIA, paper §3.4): binary cross-entropy on positives and
  negatives, and a rank term, which is what reranking needs.
- distillation: the same pairs ranked as a teacher ranks them, where the run has one.
- mlm, mpm: masked language and masked patch modelling (paper §3.4), where the configuration has
  them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: In place of a token, where a row is none.
NO_TOKEN = -100


def contrastive_loss(
    texts: Tensor, images: Tensor, scale: Tensor, same: Tensor, offset: int = 0
) -> Tensor:
    """InfoNCE both ways.

    Args:
        texts: [B, E] unit vectors of this process.
        images: [B, E] unit vectors of this process.
        scale: inverse temperature.
        same: bool [B, C], rows of this process against the columns of all: the two have the
            same text, so neither is the other's negative. The diagonal is ignored.
        offset: column of this process's first row; 0 in a single process.

    Returns:
        Scalar. With several processes every one's rows are compared with the columns of all.
        In float32 under autocast too: in bfloat16 logits of 32 to 64 are 0.25 apart.
    """
    target = torch.arange(len(texts), device=texts.device) + offset
    ignored = same.clone()
    ignored[torch.arange(len(target), device=target.device), target] = False
    loss = texts.new_zeros(())
    for queries, gallery in ((texts, gather(images)), (images, gather(texts))):
        with torch.autocast(texts.device.type, enabled=False):
            logits = scale * queries.float() @ gallery.float().T
        loss = loss + F.cross_entropy(logits.masked_fill(ignored, -1e4), target)
    return loss / 2


def alignment_loss(scores: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """InfoNCE both ways over the scores of all pairs of this process's batch.

    Args:
        scores: [B, B], texts by pictures.
        scale: inverse temperature.
        same: bool [B, B], pairs with the same text; the diagonal is ignored.
    """
    ignored = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    logits = (scale * scores).masked_fill(ignored, -1e4)
    target = torch.arange(len(same), device=same.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def gather(values: Tensor) -> Tensor:
    """Rows of all processes, [W · B, …], with their gradient.

    A row gets the gradient of every process's loss that it stands in, summed, which includes its
    part as another process's negative. The mean over the processes, which DDP takes, is then the
    gradient of the mean of their losses: that of one process with all W · B rows.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    gathered: Tensor = _Gather.apply(values)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """All-gather whose gradient is added up over the processes; torch's own is deprecated."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        parts = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


@dataclass(frozen=True, slots=True)
class Negatives:
    """For row i of a batch: the pictures `images[i]` and the texts `texts[i]`, int64 [B, M].

    `usable`: bool [B], False where a batch holds nothing but the same text.
    """

    images: Tensor
    texts: Tensor
    usable: Tensor


def draw_negatives(
    similarity: Tensor, same: Tensor, hardness: float, count: int, generator: torch.Generator
) -> Negatives:
    """Draw TIA negatives within the batch: random ones at first, look-alikes later.

    A negative is hard with probability `hardness`, and then drawn in proportion to
    exp(similarity); otherwise each other product is as likely as the next. Hard ones from the
    first step keep the match head at chance (docs/EXPERIMENTS.md).

    Args:
        similarity: [B, B] scaled recall similarities, texts by images.
        same: bool [B, B], pairs with the same text; the diagonal counts as same.
        hardness: from 0 to 1.
        count: M, negatives a side.
        generator: on the CPU; the draw is the same on every device.
    """
    # A diverged network's NaN would break the draw before the loss can tell it.
    similarity, same = similarity.detach().float().cpu().nan_to_num(), same.cpu()
    size = len(same)
    others = (~same).sum(dim=1)
    usable = others > 0
    # Drawn once each, as far as every row has as many to draw from.
    again = bool((others[usable] < count).any()) or size <= count
    drawn = []
    for scores in (similarity, similarity.T):
        hard = scores.masked_fill(same, -1e9).softmax(dim=1)
        uniform = (~same).float()
        uniform = uniform / uniform.sum(dim=1, keepdim=True).clamp(min=1)
        weights = hardness * hard + (1 - hardness) * uniform
        weights = torch.where(same, 0.0, weights + 1e-8)
        weights[~usable] = 1.0
        drawn.append(torch.multinomial(weights, count, replacement=again, generator=generator))
    return Negatives(drawn[0], drawn[1], usable)


@dataclass(frozen=True, slots=True)
class MatchLoss:
    """`loss`: scalar; `accuracy`: share of pairs on the right side of 0, a plain number."""

    loss: Tensor
    accuracy: Tensor


def match_loss(
    positive: Tensor,
    with_images: Tensor,
    with_texts: Tensor,
    usable: Tensor,
    ranked: bool = True,
) -> MatchLoss:
    """TIA's binary cross-entropy, 1:1 between positives and negatives, and the rank term.

    Args:
        positive: [B] logits of the true pairs.
        with_images: [B, M] logits of each text with its negative pictures.
        with_texts: [B, M] logits of each picture with its negative texts.
        usable: bool [B], rows whose negatives are ones.
        ranked: with the rank term, which the paper has not.
    """
    weight = usable.float()
    total = weight.sum().clamp(min=1)
    negatives = torch.cat([with_images, with_texts], dim=1)
    alignment = F.softplus(-positive) + F.softplus(negatives).mean(
        dim=1
    )  # −log σ(positive) − log σ(−negative)
    rank = positive.new_zeros(len(positive))
    for others in (with_images, with_texts):
        candidates = torch.cat([positive.unsqueeze(1), others], dim=1)
        rank = rank - candidates.log_softmax(dim=1)[:, 0]
    terms = alignment + rank if ranked else alignment
    loss = (terms / 2 * weight).sum() / total
    right = (positive > 0).float() / 2 + (negatives < 0).float().mean(dim=1) / 2
    return MatchLoss(loss, ((right * weight).sum() / total).detach())


def distillation_loss(
    candidates: Sequence[Tensor], taught: Sequence[Tensor], usable: Tensor
) -> Tensor:
    """The mean of KL(softmax(taught) ‖ softmax(candidates)) over lists of candidates.

    List-wise (ListNet's top one; Cao et al., ICML 2007): only what a list's scores differ by
    counts, which is its order and how clear it is, and nothing of the teacher's scale of logits
    that all of them share. The temperature is 1, as in the rank term of `match_loss` beside it.

    Args:
        candidates: logits [B, 1 + M] of each kind of list, such as texts with pictures and
            pictures with texts.
        taught: what the teacher makes of them, likewise; no gradient flows into them.
        usable: bool [B], rows whose negatives are ones.
    """
    weight = usable.float()
    divergences = [
        F.kl_div(
            ours.float().log_softmax(dim=1),
            theirs.detach().float().log_softmax(dim=1),
            reduction="none",
            log_target=True,
        ).sum(dim=1)
        for ours, theirs in zip(candidates, taught, strict=True)
    ]
    mean = torch.stack(divergences).mean(dim=0)
    return (mean * weight).sum() / weight.sum().clamp(min=1)


def mlm_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Masked language modelling: the mean cross-entropy of the hidden tokens; 0 without any.

    Args:
        logits: [M, V].
        tokens: int64 [M], what they were; `NO_TOKEN` where a row is none.
    """
    count = (tokens != NO_TOKEN).sum().clamp(min=1)
    return F.cross_entropy(logits, tokens, reduction="sum", ignore_index=NO_TOKEN) / count


def mpm_loss(predictions: Tensor, features: Tensor) -> Tensor:
    """Masked patch modelling: the mean of KL(softmax(feature) ‖ softmax(prediction)).

    This is the direction of the released code; the paper prints it the other way round.

    Args:
        predictions: [M, F], of M hidden patches.
        features: [M, F], what they were; no gradient flows into them.
    """
    target = features.detach().float().log_softmax(dim=1)
    predicted = predictions.float().log_softmax(dim=1)
    return F.kl_div(predicted, target, reduction="batchmean", log_target=True)
