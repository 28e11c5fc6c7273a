"""The network: a split encoder of `model.layers`, under the heads of `model.heads`.

Shapes: B pairs, T text tokens, P patches, H hidden width, E recall width, F patch feature width.
With `joint_from` = k, layers 0…k−1 see one modality at a time and layers k… see both; k = 0 is
the paper (arXiv 2005.09801, §3).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from model.config import FashionBertConfig, check_config
from model.heads import (
    AlignmentHead,
    MaskedLanguageHead,
    MaskedPatchHead,
    MatchHead,
    RecallHead,
)
from model.layers import EncoderLayer, PatchEmbeddings, TextEmbeddings, additive_mask
from model.patches import build_patch_network

logging.disable_progress_bar()  # one a file loaded or saved; our own say what takes time


class FashionBertModel(PreTrainedModel):
    """FashionBERT: `encode_text`, `encode_image`, `match`.

    The three methods are what the three exported graphs compute.
    """

    config_class = FashionBertConfig
    base_model_prefix = "fashionbert"
    config: FashionBertConfig

    def __init__(self, config: FashionBertConfig) -> None:
        super().__init__(config)
        check_config(config)
        self.text_embeddings = TextEmbeddings(config)
        self.patch_network = build_patch_network(config)
        self.patch_embeddings = PatchEmbeddings(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.match_head = MatchHead(config)
        self.recall_head = RecallHead(config) if config.recall_size else None
        self.alignment_head = AlignmentHead(config) if config.alignment_size else None
        # For training only: no exported graph holds them.
        self.masked_language_head = MaskedLanguageHead(config) if config.mlm else None
        self.masked_patch_head = MaskedPatchHead(config) if config.mpm else None
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        deviation = self.config.initializer_range
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=deviation)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, PatchEmbeddings):
            nn.init.normal_(module.position, std=deviation)
            nn.init.normal_(module.modality, std=deviation)
        elif isinstance(module, TextEmbeddings):
            nn.init.zeros_(module.modality)

    # Text and picture alone.

    def _through(self, states: Tensor, mask: Tensor | None, layers: nn.ModuleList) -> Tensor:
        for layer in layers:
            states = layer(states, mask)
        return states

    def encode_text(
        self, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Texts to states after layer k, and recall embeddings if there is a recall head.

        Args:
            input_ids: int64 [B, T].
            attention_mask: [B, T], 1 for a token, 0 for padding.

        Returns:
            states [B, T, H] and embeddings [B, E].
        """
        mask = additive_mask(attention_mask)
        k = self.config.joint_from
        states = self._through(self.text_embeddings(input_ids), mask, self.layers[:k])
        if self.recall_head is None:
            return states, None
        # With k = 0 nothing contextual is there to pool: all layers, each modality alone.
        pooled = states if k else self._through(states, mask, self.layers)
        return states, self.recall_head.embed_text(pooled, attention_mask)

    def patch_features(self, pixels: Tensor | None = None, maps: Tensor | None = None) -> Tensor:
        """Patch features [B, P, F] of pixels or of maps, as `encode_image` takes them."""
        if maps is not None:
            grid: Any = self.patch_network  # no other keeps maps
            features: Tensor = grid.from_maps(maps)
        else:
            features = self.patch_network(pixels)
        return features

    def encode_image(
        self,
        pixels: Tensor | None = None,
        features: Tensor | None = None,
        maps: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Pictures to states after layer k, and recall embeddings if there is a recall head.

        Args:
            pixels: uint8 [B, S, S, 3].
            features: [B, P, F] instead, what a frozen patch network made of the pixels before.
            maps: [B, h, w, C] instead, what the frozen stages of a CNN made of them.

        Returns:
            states [B, P, H] and embeddings [B, E].
        """
        if features is None:
            features = self.patch_features(pixels, maps)
        k = self.config.joint_from
        states = self._through(self.patch_embeddings(features), None, self.layers[:k])
        if self.recall_head is None:
            return states, None
        pooled = states if k else self._through(states, None, self.layers)
        return states, self.recall_head.embed_image(pooled)

    # Both together.

    def _below_last(
        self, text_states: Tensor, text_mask: Tensor, image_states: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Joint layers but the last: states [B, T + P, H], and their mask."""
        sides = [text_states, image_states]
        patch_mask = text_mask.new_ones(1, 1).expand(image_states.shape[:2])
        layers = self.layers[self.config.joint_from : -1]
        if self.training:  # each row belongs to one pair
            mask = additive_mask(torch.cat([text_mask, patch_mask], dim=1))
            return self._through(torch.cat(sides, dim=1), mask, layers), mask
        # The rows of either side once, [1, R, H], and where in them those of each pair lie.
        rows = torch.cat([states.reshape(1, -1, self.config.hidden_size) for states in sides], 1)
        places = _places(text_mask, patch_mask)
        present = torch.cat([text_mask.flatten(), patch_mask.flatten()])
        mask = additive_mask(present[places])
        states = F.embedding(places, rows.flatten(0, 1))  # a view in ONNX too; [0] is a copy
        for first in layers[:1]:
            assert isinstance(first, EncoderLayer)
            states = first(states, mask, F.embedding(places, first.qkv(rows).flatten(0, 1)))
        return self._through(states, mask, layers[1:]), mask

    def joint_states(self, text_states: Tensor, text_mask: Tensor, image_states: Tensor) -> Tensor:
        """All states of the last layer, which the masked tasks need; `match` needs `[CLS]` alone.

        Args:
            text_states: [B, T, H] after layer k.
            text_mask: [B, T], 1 for a token, 0 for padding.
            image_states: [B, P, H] after layer k.

        Returns:
            [B, T + P, H].
        """
        states, mask = self._below_last(text_states, text_mask, image_states)
        out: Tensor = self.layers[-1](states, mask)
        return out

    def match(self, text_states: Tensor, text_mask: Tensor, image_states: Tensor) -> Tensor:
        """Joint layers over `[CLS] text [SEP] patches` → raw match logits.

        In evaluation mode either side may have batch 1, one for all pairs: what depends on it
        alone, the first joint layer's projections and the stacked heads', is then computed once.

        Args:
            text_states: [B, T, H] after layer k.
            text_mask: [B, T], 1 for a token, 0 for padding.
            image_states: [B, P, H] after layer k.

        Returns:
            float32 [B].
        """
        states, mask = self._below_last(text_states, text_mask, image_states)
        last = self.layers[-1]
        assert isinstance(last, EncoderLayer)
        cls = last.first_row(states, mask)[:, 0]
        similarity = alignment = None
        if self.config.stack_recall and self.recall_head is not None and not self.training:
            texts = self.recall_head.embed_text(text_states, text_mask)
            images = self.recall_head.embed_image(image_states)
            similarity = (texts * images).sum(-1)
            if self.alignment_head is not None:
                alignment = self.alignment_head(text_states, text_mask, image_states)
        logit: Tensor = self.match_head(cls, similarity, alignment)
        return logit


def _places(text_mask: Tensor, patch_mask: Tensor) -> Tensor:
    """Of masks [B or 1, T] and [B or 1, P], the numbers of each pair's rows: int64 [B, T + P].

    Rows are numbered through all texts, then on through all pictures.
    """
    texts, images = (
        torch.arange(mask.numel(), device=mask.device).view(mask.shape)
        for mask in (text_mask, patch_mask)
    )
    images = images + text_mask.numel()
    # Adding noughts of the other side's batch is a broadcast that ONNX does by itself.
    return torch.cat([texts + 0 * images[:, :1], images + 0 * texts[:, :1]], dim=1)
