"""The texts that all contenders get: words of one token each, so that lengths are known."""

from __future__ import annotations

import random
from typing import Any

from benchmarks import models
from benchmarks.settings import CANDIDATES, DOCUMENT_TOKENS, QUERY_TOKENS, Settings

#: Words of a query: `[CLS]` and `[SEP]` stand around them. Of a document: `[SEP]` follows.
QUERY_WORDS = QUERY_TOKENS - 2
DOCUMENT_WORDS = DOCUMENT_TOKENS - 1


def texts(words: list[str], count: int, length: int, seed: int) -> list[str]:
    """So many texts of so many words."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=length)) for _ in range(count)]


def pairs(settings: Settings) -> dict[str, Any]:
    """`queries`, of which each work unit takes the next, and the `documents` to rerank."""
    words = models.words(settings)
    return {
        "queries": texts(words, 64, QUERY_WORDS, seed=1),
        "documents": texts(words, CANDIDATES, DOCUMENT_WORDS, seed=2),
        "candidates": CANDIDATES,
    }
