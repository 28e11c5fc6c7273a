"""The network: embeddings and a split encoder, under the heads of `model.heads`.

Shapes: B pairs, T text tokens, P patches, H hidden width, E recall width, F patch feature width.
With `joint_from` = k, layers 0…k−1 see one modality at a time and layers k… see both; k = 0 is
the paper (arXiv 2005.09801, §3).
"""

from __future__ import annotations

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
from model.patches import build_patch_network

logging.disable_progress_bar()  # one a file loaded or saved; our own say what takes time


class TextEmbeddings(nn.Module):
    """Word + position + type 0 → LayerNorm → dropout (BERT)."""

    def __init__(self, config: FashionBertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.position = nn.Embedding(config.max_position_embeddings, width)
        self.modality = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 [B, T] → [B, T, H]."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        embedded = self.word(input_ids) + self.position(positions) + self.modality
        out: Tensor = self.dropout(self.norm(embedded))
        return out


class PatchEmbeddings(nn.Module):
    """Dropout → linear F→H without bias, + position + type → LayerNorm → dropout."""

    def __init__(self, config: FashionBertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.projection = nn.Linear(config.patch_feature_size, width, bias=False)
        self.position = nn.Parameter(torch.zeros(config.num_patches, width))
        self.modality = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, features: Tensor) -> Tensor:
        """[B, P, F] → [B, P, H]."""
        projected = self.projection(self.dropout(features))
        out: Tensor = self.dropout(self.norm(projected + self.position + self.modality))
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Softmax attention, [B, heads, L, D] each, with an additive mask [B, 1, 1, L]."""
    if q.device.type == "cpu":
        # The CPU's bf16 kernel takes 2.4 times as long backward as its fp32 one (EXPERIMENTS.md).
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(
                q.float(), k.float(), v.float(), attn_mask=mask, dropout_p=dropout
            )
    mask = None if mask is None else mask.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)


class EncoderLayer(nn.Module):
    """A post-norm BERT layer with the three input projections in one matrix."""

    def __init__(self, config: FashionBertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(width, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def _split_heads(self, states: Tensor) -> Tensor:
        batch, length, width = states.shape
        heads = states.view(batch, length, self.heads, width // self.heads)
        return heads.transpose(1, 2)  # [B, heads, L, H / heads]

    def forward(
        self, states: Tensor, mask: Tensor | None = None, first_only: bool = False
    ) -> Tensor:
        """One layer.

        Args:
            states: [B, L, H].
            mask: additive attention mask [B, 1, 1, L], or None where nothing is padded.
            first_only: compute row 0 (`[CLS]`) alone; the last layer needs no other.

        Returns:
            [B, L, H], or [B, 1, H] with `first_only`.
        """
        if first_only:
            width = self.qkv.in_features  # not of the states: the exporter writes a constant so
            weight, bias = self.qkv.weight, self.qkv.bias
            queries = states[:, :1]
            q = F.linear(queries, weight[:width], bias[:width])
            k, v = F.linear(states, weight[width:], bias[width:]).split(width, dim=-1)
        else:
            queries = states
            q, k, v = self.qkv(states).split(states.shape[-1], dim=-1)
        attended = attend(
            self._split_heads(q),
            self._split_heads(k),
            self._split_heads(v),
            mask,
            self.attention_dropout if self.training else 0.0,
        )
        attended = attended.transpose(1, 2).flatten(2)
        states = self.attention_norm(queries + self.dropout(self.attention_output(attended)))
        inner = self.output(F.gelu(self.intermediate(states)))
        out: Tensor = self.output_norm(states + self.dropout(inner))
        return out


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
            features: Tensor = self.patch_network.from_maps(maps)
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
        patch_mask = text_mask.new_ones(1, 1).expand(image_states.shape[0], image_states.shape[1])
        mask = additive_mask(torch.cat([text_mask, patch_mask], dim=1))
        states = torch.cat([text_states, image_states], dim=1)
        return self._through(states, mask, self.layers[self.config.joint_from : -1]), mask

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

        Args:
            text_states: [B, T, H] after layer k.
            text_mask: [B, T], 1 for a token, 0 for padding.
            image_states: [B, P, H] after layer k.

        Returns:
            float32 [B].
        """
        states, mask = self._below_last(text_states, text_mask, image_states)
        cls = self.layers[-1](states, mask, first_only=True)[:, 0]
        similarity = alignment = None
        if self.config.stack_recall and self.recall_head is not None and not self.training:
            texts = self.recall_head.embed_text(text_states, text_mask)
            images = self.recall_head.embed_image(image_states)
            similarity = (texts * images).sum(-1)
            if self.alignment_head is not None:
                alignment = self.alignment_head(text_states, text_mask, image_states)
        logit: Tensor = self.match_head(cls, similarity, alignment)
        return logit


def additive_mask(mask: Tensor) -> Tensor:
    """1 / 0 [B, L] → 0 / −10⁴ [B, 1, 1, L], which every precision can hold."""
    return (1.0 - mask[:, None, None, :].float()) * -1e4
