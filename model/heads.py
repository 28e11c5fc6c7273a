"""The heads of the network: recall, alignment, match, and those of the two masked tasks.

Shapes: B pairs, T text tokens, P patches, H hidden width, E recall width, D alignment width,
F patch feature width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import FashionBertConfig

#: CLIP's first temperature, exp(2.66) = 1 / 0.07, and its bound against collapse,
#: exp(4.6052) = 100.
_FIRST_LOG_SCALE, _LARGEST_LOG_SCALE = 2.66, 4.6052


@contextlib.contextmanager
def _in_full(head: nn.Module, *states: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Outside training a head computes in float32, whatever the layers below compute in.

    What ranks must not be rounded to 8 bits: pairs would stand level that are not. An export is in
    float32 anyway, and its graph stays as it is.
    """
    device = states[0].device.type
    if head.training or not torch.is_autocast_enabled(device):
        yield states
        return
    with torch.autocast(device, enabled=False):
        yield tuple(each.float() for each in states)


class RecallHead(nn.Module):
    """Mean over the real states → linear → a unit vector; one projection a modality."""

    def __init__(self, config: FashionBertConfig) -> None:
        super().__init__()
        self.text = nn.Linear(config.hidden_size, config.recall_size)
        self.image = nn.Linear(config.hidden_size, config.recall_size)
        self.log_scale = nn.Parameter(torch.tensor(_FIRST_LOG_SCALE))

    def embed_text(self, states: Tensor, mask: Tensor) -> Tensor:
        """[B, T, H], [B, T] → [B, E], unit length."""
        with _in_full(self, states) as (states,):
            weights = mask.to(states.dtype).unsqueeze(-1)
            pooled = (states * weights).sum(1) / weights.sum(1)
            return F.normalize(self.text(pooled).float(), dim=-1)

    def embed_image(self, states: Tensor) -> Tensor:
        """[B, P, H] → [B, E], unit length."""
        with _in_full(self, states) as (states,):
            return F.normalize(self.image(states.mean(1)).float(), dim=-1)

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, at most 100."""
        return self.log_scale.clamp(max=_LARGEST_LOG_SCALE).exp()


class AlignmentHead(nn.Module):
    """Token-to-patch alignment: how well each token finds a patch that shows it.

    Late interaction (MaxSim; Khattab and Zaharia, arXiv 2004.12832) with a learnt weight a token;
    the paper names such an alignment as its first next step. One projection a modality.
    """

    def __init__(self, config: FashionBertConfig) -> None:
        super().__init__()
        self.text = nn.Linear(config.hidden_size, config.alignment_size)
        self.image = nn.Linear(config.hidden_size, config.alignment_size)
        self.salience = nn.Linear(config.hidden_size, 1)
        self.log_scale = nn.Parameter(torch.tensor(_FIRST_LOG_SCALE))

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, at most 100."""
        return self.log_scale.clamp(max=_LARGEST_LOG_SCALE).exp()

    def tokens(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, H], [B, T] → unit vectors [B, T, D] and weights [B, T], a text's summing to 1."""
        salience = self.salience(states).squeeze(-1).float() + (1.0 - mask.float()) * -1e4
        return F.normalize(self.text(states).float(), dim=-1), salience.softmax(dim=-1)

    def patches(self, states: Tensor) -> Tensor:
        """[B, P, H] → unit vectors [B, P, D]."""
        return F.normalize(self.image(states).float(), dim=-1)

    def forward(self, text_states: Tensor, mask: Tensor, image_states: Tensor) -> Tensor:
        """Alignment of B pairs: [B, T, H], [B, T], [B, P, H] → [B], from −1 to 1."""
        with _in_full(self, text_states, image_states) as (texts, images):
            tokens, weights = self.tokens(texts, mask)
            cosines = tokens @ self.patches(images).transpose(1, 2)  # [B, T, P]
            return (cosines.amax(dim=-1) * weights).sum(-1)

    def all_pairs(self, text_states: Tensor, mask: Tensor, image_states: Tensor) -> Tensor:
        """Alignment of each of B texts with each of C pictures: [B, C]."""
        tokens, weights = self.tokens(text_states, mask)
        patches = self.patches(image_states)
        cosines = tokens.flatten(0, 1) @ patches.flatten(0, 1).T  # [B · T, C · P]
        best = cosines.unflatten(1, patches.shape[:2]).amax(dim=-1)  # [B · T, C]
        scores: Tensor = (best.unflatten(0, tokens.shape[:2]) * weights.unsqueeze(-1)).sum(1)
        return scores


class MatchHead(nn.Module):
    """BERT's pooler on `[CLS]`, then one logit.

    The paper has two logits under a softmax cross-entropy; its score is their difference, which
    is this one logit under a binary cross-entropy.
    """

    def __init__(self, config: FashionBertConfig) -> None:
        super().__init__()
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        # What the other two scores add to the logit: nothing while training, so that the joint
        # layers learn to match by themselves; `model.calibration` sets it on held-out products.
        # The classifier stays as it was trained, so that another run can go on with it.
        if config.stack_recall:
            self.register_buffer("match_weight", torch.ones(()))
            self.register_buffer("recall_weight", torch.zeros(()))
            self.register_buffer("shift", torch.zeros(()))
        if config.alignment_size:
            self.register_buffer("alignment_weight", torch.zeros(()))

    match_weight: Tensor
    recall_weight: Tensor
    shift: Tensor
    alignment_weight: Tensor

    def forward(
        self, cls: Tensor, similarity: Tensor | None = None, alignment: Tensor | None = None
    ) -> Tensor:
        """[B, H], and recall cosines and alignments [B] where they are stacked → logit [B]."""
        with _in_full(self, cls) as (cls,):
            pooled = torch.tanh(self.pooler(cls))
            logit: Tensor = self.classifier(self.dropout(pooled)).squeeze(-1).float()
        if similarity is not None:
            logit = self.match_weight * logit + self.recall_weight * similarity + self.shift
        if alignment is not None:
            logit = logit + self.alignment_weight * alignment
        return logit


class MaskedLanguageHead(nn.Module):
    """BERT's: dense + GELU + LayerNorm, then the word embeddings as decoder, + a bias a token."""

    def __init__(self, config: FashionBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, states: Tensor, words: Tensor) -> Tensor:
        """[M, H], and the word embeddings [V, H] → float32 logits [M, V].

        The embeddings are given, not owned: so they are tied, and saved once.
        """
        return F.linear(self.norm(F.gelu(self.dense(states))), words, self.bias).float()


class MaskedPatchHead(nn.Module):
    """Linear H→F without bias: the logits of a patch's feature."""

    def __init__(self, config: FashionBertConfig) -> None:
        super().__init__()
        self.decoder = nn.Linear(config.hidden_size, config.patch_feature_size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """[M, H] → float32 [M, F]."""
        out: Tensor = self.decoder(states)
        return out.float()
