"""Recall: which products the matcher is to look at, by their pictures or by their texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.columns import Mask
from index.live import AnySnapshot


@dataclass(frozen=True, slots=True)
class Recalled:
    """What FAISS found: rows (of pictures or texts) and the distinct products among them.

    `rows`, `similarities`, `products` [n], best first: `products[i]` is the one `rows[i]` belongs
    to. `first` has the distinct products, in that order, and where in `rows` each one begins.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]
    products: NDArray[np.int64]
    first: dict[int, int]

    @classmethod
    def of(
        cls,
        rows: NDArray[np.int64],
        similarities: NDArray[np.float32],
        products: NDArray[np.int64],
    ) -> Recalled:
        """Find the distinct products."""
        first: dict[int, int] = {}
        for at, product in enumerate(products.tolist()):
            first.setdefault(product, at)
        return cls(rows, similarities, products, first)

    def until(self, products: int) -> int:
        """How many rows there are up to the one where the last of `products` products begins."""
        starts = [*self.first.values()]
        return starts[min(products, len(starts)) - 1] + 1 if starts else 0


def recall_images(
    snapshot: AnySnapshot, embedding: NDArray[np.float32], products: int, among: Mask | None = None
) -> Recalled:
    """Pictures by similarity, so many that they belong to at least `products` products.

    Args:
        snapshot: what is searched.
        embedding: float32 [E] of a text.
        products: how many are wanted; there are fewer where fewer match.
        among: bool [products], those that match; all by default.
    """
    product_of = snapshot.product_of_image
    matching, pictures, among_pictures = len(snapshot), len(product_of), None
    if among is not None:
        among_pictures = among[product_of]
        matching = int(np.count_nonzero(among))
        pictures = int(np.count_nonzero(among_pictures))
    products = min(products, matching)
    if not products:
        return _nothing()
    # As many as make that many products on average; more where views of one come together.
    wanted = -(-products * pictures // matching)
    while True:
        rows, similarities = snapshot.search_images(embedding, wanted, among=among_pictures)
        recalled = Recalled.of(rows, similarities, product_of[rows].astype(np.int64))
        if len(recalled.first) >= products or wanted >= pictures:
            return recalled
        wanted = min(pictures, 2 * wanted)


def recall_texts(
    snapshot: AnySnapshot, embedding: NDArray[np.float32], products: int, among: Mask | None = None
) -> Recalled:
    """Texts by similarity to a picture; as `recall_images`."""
    products = min(products, len(snapshot))
    if not products:
        return _nothing()
    rows, similarities = snapshot.search_texts(embedding, products, among=among)
    return Recalled.of(rows, similarities, rows)  # a text's row is its product's


def _nothing() -> Recalled:
    none = np.empty(0, dtype=np.int64)
    return Recalled.of(none, np.empty(0, dtype=np.float32), none)
