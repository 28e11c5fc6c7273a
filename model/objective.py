"""The network with its training tasks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.dataset import Batch
from model.network import FashionBertModel
from model.tasks import contrastive_loss, draw_negatives, gather, match_loss


class TrainingModel(nn.Module):
    """The network with its tasks: one forward a step, so that any wrapper (DDP) sees one."""

    def __init__(self, network: FashionBertModel, negatives: int) -> None:
        super().__init__()
        self.network = network
        self.negatives = negatives

    def forward(
        self, batch: Batch, hardness: float, generator: torch.Generator, offset: int
    ) -> dict[str, Tensor]:
        """Losses by task, and `match_accuracy`.

        Args:
            batch: B products of this process.
            hardness: share of hard TIA negatives.
            generator: draws the negatives.
            offset: this process's first row among those of all.
        """
        network = self.network
        texts, text_embeddings = network.encode_text(batch.input_ids, batch.attention_mask)
        images, image_embeddings = network.encode_image(**batch.images)
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

        count = self.negatives
        drawn = draw_negatives(similarity, local, hardness, count, generator)
        rows = torch.arange(size, device=texts.device)
        repeated = rows.repeat_interleave(count)
        text_rows = torch.cat([rows, repeated, drawn.texts.flatten().to(rows.device)])
        image_rows = torch.cat([rows, drawn.images.flatten().to(rows.device), repeated])
        logits = network.match(
            texts[text_rows], batch.attention_mask[text_rows], images[image_rows]
        )
        positive, with_images, with_texts = logits.split([size, size * count, size * count])
        match = match_loss(
            positive,
            with_images.view(size, count),
            with_texts.view(size, count),
            drawn.usable.to(rows.device),
        )
        losses["match"] = match.loss
        losses["match_accuracy"] = match.accuracy
        return losses
