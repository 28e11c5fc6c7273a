"""Searching one way over encoded products, without an index: every similarity, chosen logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Answers that are matched with a query at once, so that few states are gathered at a time.
_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Direction:
    """One way to search: a product asks, and products answer, each by the best of its A answers.

    Attributes:
        queries: float32 [N, E], the recall embedding each product asks with.
        answers: float32 [A, E], a product's together: all its pictures, or its one text.
        first: int64 [N + 1], product i's answers are first[i]…first[i + 1] − 1.
        match: logits of one product's query with answers.
    """

    queries: NDArray[np.float32]
    answers: NDArray[np.float32]
    first: NDArray[np.int64]
    match: Callable[[int, NDArray[np.int64]], NDArray[np.float32]]

    def similarities(self, query: int) -> NDArray[np.float32]:
        """Recall similarity of all answers, [A]; 0 without a recall head."""
        found: NDArray[np.float32] = self.answers @ self.queries[query]
        return found

    def best(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Each product's best answer: [A] → [N]."""
        found: NDArray[np.float32] = np.maximum.reduceat(scores, self.first[:-1])
        return found

    def logits(self, query: int, products: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Match logits of the answers of some products (bool [N]); −inf for others, [A]."""
        logits = np.full(len(self.answers), -np.inf, dtype=np.float32)
        rows = np.flatnonzero(np.repeat(products, np.diff(self.first)))
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            logits[part] = self.match(query, part)
        return logits
