"""Counting what a pair costs at least: multiply-adds of the joint layers, and bytes read.

Of what `model.network` computes for a pair of T text tokens and P patches, H wide, only this must
be done a pair when one text meets many pictures: the first joint layer's projections of the text
are the same for all pairs. Of the last layer only the row of `[CLS]` is read, and with one query a
head's key and value matrices are used once and not once a row (`EncoderLayer.first_row`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers from `joint_from` to `layers` are joint; `hidden` and `intermediate` are widths."""

    layers: int
    joint_from: int
    heads: int
    hidden: int
    intermediate: int
    text_tokens: int
    patches: int


@dataclass(frozen=True, slots=True)
class Operations:
    """Floating-point operations of one pair, a multiply-add being two.

    `matrix` are products with weights, which int8 does in 8 bits; `attention` those of tokens with
    tokens. `dense` is what the same layers cost without sharing or leaving anything out.
    """

    matrix: float
    attention: float
    dense: float

    @property
    def total(self) -> float:
        """Both together."""
        return self.matrix + self.attention


def of_pair(shape: Shape, pairs: int) -> Operations:
    """Of each of `pairs` pictures that one text is matched with."""
    h = shape.hidden
    tokens = shape.text_tokens + shape.patches
    project = 2 * h * h  # of one row, by one of query, key, value and output
    feed_forward = 4 * h * shape.intermediate
    layers = shape.layers - shape.joint_from
    # The last layer: one query, both matrices of its keys and values once, then its row's rest.
    matrix = 4.0 * project + feed_forward
    attention = 4.0 * shape.heads * tokens * h
    for layer in range(layers - 1):
        # The text's share of the first projections is computed once for all pairs.
        shared = shape.text_tokens * (1 - 1 / pairs) if layer == 0 else 0
        matrix += 3 * project * (tokens - shared) + tokens * (project + feed_forward)
        attention += 4 * tokens * tokens * h
    dense = layers * (tokens * (4 * project + feed_forward) + 4 * tokens * tokens * h)
    head = project  # the match head's dense layer
    return Operations(matrix + head, attention, float(dense + head))


def bytes_of_pair(shape: Shape, pairs: int) -> float:
    """Bytes that come from the memory map for each pair: int8 states and a scale a vector."""
    return (shape.patches + shape.text_tokens / pairs) * (shape.hidden + 4)
