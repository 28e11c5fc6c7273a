"""The parts of the network: embeddings and the encoder layer.

Shapes: B pairs, T text tokens, P patches, L tokens and patches, H hidden width, F patch feature
width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import FashionBertConfig


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
        self.width = width
        self.heads = config.num_attention_heads
        self.head_width = width // self.heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(width, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def _split_heads(self, states: Tensor) -> Tensor:
        batch, length, _ = states.shape
        heads = states.view(batch, length, self.heads, self.head_width)
        return heads.transpose(1, 2)  # [B, heads, L, H / heads]

    def forward(
        self, states: Tensor, mask: Tensor | None = None, projected: Tensor | None = None
    ) -> Tensor:
        """One layer.

        Args:
            states: [B, L, H].
            mask: additive attention mask [B, 1, 1, L], or None where nothing is padded.
            projected: `qkv` of the states [B, L, 3H], where it is there already.

        Returns:
            [B, L, H].
        """
        projected = self.qkv(states) if projected is None else projected
        q, k, v = projected.split(self.width, dim=-1)
        attended = attend(
            self._split_heads(q),
            self._split_heads(k),
            self._split_heads(v),
            mask,
            self.attention_dropout if self.training else 0.0,
        )
        return self._after_attention(states, attended.transpose(1, 2).flatten(2))

    def first_row(self, states: Tensor, mask: Tensor) -> Tensor:
        """Row 0 (`[CLS]`) of what the layer makes of [B, L, H]: [B, 1, H].

        No other row is projected. A score q · (K x) is (Kᵀ q) · x and a head's value V (Σ a x), so
        with one query both matrices are used once a pair, not once a row: 2H² operations a row
        become 2H · heads. The bias of the keys adds the same to all scores of a head, thus nothing.
        """
        queries = states[:, :1]
        # Sizes are plain numbers here, so that an export holds each matrix cut out as a constant.
        by_head = (self.heads, self.head_width, self.width)
        to_q, to_k, to_v = self.qkv.weight.split(self.width)
        of_q, _, of_v = self.qkv.bias.split(self.width)
        q = F.linear(queries, to_q, of_q) * self.head_width**-0.5
        q = q.view(-1, self.heads, self.head_width).transpose(0, 1)  # [heads, B, H / heads]
        asked = (q @ to_k.view(by_head)).transpose(0, 1)  # [B, heads, H]
        scores = asked @ states.transpose(1, 2) + mask[:, 0]  # [B, heads, L]
        shares = scores.softmax(-1).to(states.dtype)
        shares = F.dropout(shares, self.attention_dropout, self.training)
        mixed = (shares @ states).transpose(0, 1)  # [heads, B, H]
        attended = (mixed @ to_v.view(by_head).transpose(1, 2)).transpose(0, 1)
        return self._after_attention(queries, attended.reshape(-1, 1, self.width) + of_v)

    def _after_attention(self, states: Tensor, attended: Tensor) -> Tensor:
        states = self.attention_norm(states + self.dropout(self.attention_output(attended)))
        inner = self.output(F.gelu(self.intermediate(states)))
        out: Tensor = self.output_norm(states + self.dropout(inner))
        return out


def additive_mask(mask: Tensor) -> Tensor:
    """1 / 0 [B, L] → 0 / −10⁴ [B, 1, 1, L], which every precision can hold."""
    return (1.0 - mask[:, None, None, :].float()) * -1e4
