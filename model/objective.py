"""The network with its training tasks.

Masked language and patch modelling (MLM, MPM), where the configuration has them, take a second
pass over the batch's true pairs, with words and patches hidden; recall and match see everything.
The paper hides for all its tasks in one pass, negative pairs included. But here one encoding of a
product serves all its pairs, recall and match are trained on what they are served with, and a
hidden word can be told only from a picture that it describes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.dataset import Batch
from model.distil import Teacher
from model.network import FashionBertModel
from model.tasks import (
    NO_TOKEN,
    Negatives,
    alignment_loss,
    contrastive_loss,
    distillation_loss,
    draw_negatives,
    gather,
    match_loss,
    mlm_loss,
    mpm_loss,
)

#: The hidden words of a batch are made up to multiples of so many, for the same reason as its
#: tokens are (`model.dataset`): their logits are the largest blocks of a step.
_WORDS = 128


class TrainingModel(nn.Module):
    """The network with its tasks: one forward a step, so that any wrapper (DDP) sees one.

    With a `teacher` the pairs of the match have a second task, to be ranked as it ranks them.
    """

    def __init__(
        self,
        network: FashionBertModel,
        negatives: int,
        rank_loss: bool = True,
        joint_share: float = 1.0,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.negatives = negatives
        self.rank_loss = rank_loss
        self.joint_share = joint_share
        self.teacher = teacher  # no module, hence not registered: see there

    def forward(
        self, batch: Batch, hardness: float, generator: torch.Generator, offset: int
    ) -> dict[str, Tensor]:
        """Losses by task, and `match_accuracy`.

        Args:
            batch: B products of this process.
            hardness: share of hard TIA negatives, 0 without a recall head.
            generator: draws the negatives.
            offset: this process's first row among those of all.
        """
        network = self.network
        texts, text_embeddings = network.encode_text(batch.input_ids, batch.attention_mask)
        inputs = batch.images
        if "features" not in inputs:
            inputs = {"features": network.patch_features(**inputs)}  # once, for both passes
        images, image_embeddings = network.encode_image(**inputs)
        size = len(texts)
        same = batch.same(gather)
        local = same[:, offset : offset + size]
        losses: dict[str, Tensor] = {}
        similarity = texts.new_zeros(size, size)
        head = network.recall_head
        if head is not None and text_embeddings is not None and image_embeddings is not None:
            losses["recall"] = contrastive_loss(
                text_embeddings, image_embeddings, head.scale, same, offset
            )
            similarity = head.scale * text_embeddings @ image_embeddings.T
        else:
            hardness = 0.0
        if network.alignment_head is not None:
            scores = network.alignment_head.all_pairs(texts, batch.attention_mask, images)
            losses["alignment"] = alignment_loss(scores, network.alignment_head.scale, local)

        drawn = draw_negatives(similarity, local, hardness, self.negatives, generator)
        rows = self._joint_rows(size, generator).to(texts.device)
        losses.update(self._pair_losses(batch, texts, images, drawn, rows))
        part, features = batch, inputs["features"]
        if len(rows) < size:
            part = batch.rows(rows)
            features, texts, images = (
                values.index_select(0, rows) for values in (features, texts, images)
            )
        losses.update(self._masked_losses(part, features, texts, images))
        return losses

    def _joint_rows(self, size: int, generator: torch.Generator) -> Tensor:
        """The products of a batch whose pairs go through the joint layers: int64 [≤ B], sorted."""
        count = max(1, round(self.joint_share * size))
        if count == size:
            return torch.arange(size)
        return torch.randperm(size, generator=generator)[:count].sort().values

    def _pair_losses(
        self, batch: Batch, texts: Tensor, images: Tensor, drawn: Negatives, rows: Tensor
    ) -> dict[str, Tensor]:
        """Losses over pairs of text and picture, and `match_accuracy`.

        Args:
            batch: of B products.
            texts: states [B, T, H].
            images: states [B, P, H].
            drawn: the negatives of each product, M a side.
            rows: int64 [R], the products whose pairs are scored.
        """
        size, count = len(rows), self.negatives
        repeated = rows.repeat_interleave(count)
        other_texts, other_images, usable = (
            values.to(texts.device).index_select(0, rows)
            for values in (drawn.texts, drawn.images, drawn.usable)
        )
        text_rows = torch.cat([rows, repeated, other_texts.flatten()])
        image_rows = torch.cat([rows, other_images.flatten(), repeated])
        # `index_select`, since the gradient of plain indexing adds up in the order of the threads,
        # and a resumed run must be the same to the bit.
        logits = self.network.match(
            texts.index_select(0, text_rows),
            batch.attention_mask.index_select(0, text_rows),
            images.index_select(0, image_rows),
        )
        positive, with_images, with_texts = logits.split([size, size * count, size * count])
        match = match_loss(
            positive,
            with_images.view(size, count),
            with_texts.view(size, count),
            usable,
            self.rank_loss,
        )
        losses = {"match": match.loss, "match_accuracy": match.accuracy}
        if self.teacher is not None:
            taught = self.teacher.scores(batch, text_rows, image_rows)
            losses["distillation"] = distillation_loss(
                _lists(logits, size), _lists(taught, size), usable
            )
        return losses

    def _masked_losses(
        self, batch: Batch, features: Tensor, texts: Tensor, images: Tensor
    ) -> dict[str, Tensor]:
        """Losses of the masked tasks that the network has heads for.

        Args:
            batch: with what is hidden.
            features: [B, P, F], all that MPM needs more.
            texts: states [B, T, H] with nothing hidden, taken where no words are.
            images: states [B, P, H] with nothing hidden, taken where no patches are.
        """
        network = self.network
        tokens, patches = batch.masked_tokens, batch.masked_patches
        losses: dict[str, Tensor] = {}
        if tokens is None and patches is None:
            return losses
        if batch.masked_ids is not None:
            texts, _ = network.encode_text(batch.masked_ids, batch.attention_mask)
        if patches is not None:
            # The feature is gone, position and type stay.
            hidden = features.masked_fill(patches.unsqueeze(-1), 0.0)
            images, _ = network.encode_image(features=hidden)
        states = network.joint_states(texts, batch.attention_mask, images)
        length = texts.shape[1]
        if network.masked_language_head is not None and tokens is not None:
            words = network.text_embeddings.word.weight
            hidden_words = _rows(states[:, :length], tokens)
            missing = -len(hidden_words) % _WORDS
            logits = network.masked_language_head(F.pad(hidden_words, (0, 0, 0, missing)), words)
            wanted = F.pad(batch.input_ids[tokens], (0, missing), value=NO_TOKEN)
            losses["mlm"] = mlm_loss(logits, wanted)
        if network.masked_patch_head is not None and patches is not None:
            predictions = network.masked_patch_head(_rows(states[:, length:], patches))
            losses["mpm"] = mpm_loss(predictions, features[patches])
        return losses


def _lists(scores: Tensor, size: int) -> list[Tensor]:
    """[R · (1 + 2 M)] of `_pair_losses` → the candidates [R, 1 + M] of texts, and of pictures."""
    positive = scores[:size].unsqueeze(1)
    others = scores[size:].view(2, size, -1)
    return [torch.cat([positive, side], dim=1) for side in others]


def _rows(states: Tensor, chosen: Tensor) -> Tensor:
    """[B, L, H] and bool [B, L] → the chosen states [M, H]; see above for `index_select`."""
    return states.flatten(0, 1).index_select(0, chosen.flatten().nonzero().squeeze(1))
