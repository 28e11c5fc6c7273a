"""A snapshot with the writes that came after it: what a search reads.

The snapshot's rows keep their numbers, the delta's follow. What was deleted or replaced is masked
out inside the recall, so that k hits are k hits that exist; the delta's rows are compared exactly
and merged in by their similarity.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.delta import Delta, Mask, nearest
from index.items import Item
from index.live_items import LiveItems
from index.manifest import Manifest
from index.masks import Masks
from index.recall import Embeddings
from index.snapshot import Snapshot, media_type
from index.states import Rows
from model.states import QuantisedStates

Found = tuple[NDArray[np.int64], Embeddings]


class Search(Protocol):
    """Of `Snapshot`, for pictures or for texts."""

    def __call__(self, embedding: Embeddings, k: int, *, among: Mask | None = None) -> Found:
        """Rows and similarities, best first."""


class LiveSnapshot:
    """One version of the catalogue: a snapshot and a delta. Immutable, and safe to use from
    several threads.

    It reads as `Snapshot` does, with these differences: `name` is `00000007+12` after write 12;
    `len()` counts the products that there are, while rows go from 0 to `rows` - 1 and those that
    were deleted or replaced are never found; and `product_of_image` and masks are of all rows.
    """

    def __init__(self, base: Snapshot, delta: Delta) -> None:
        self.base = base
        self.delta = delta
        self.path = base.path
        self.manifest: Manifest = base.manifest
        self.model_id = base.model_id
        self.created = base.created
        self.sequence = delta.sequence
        ahead = delta.sequence > base.manifest.folded
        self.name = f"{base.name}+{delta.sequence}" if ahead else base.name
        self.items = LiveItems(base.items, delta)
        self._products = base.manifest.sizes.products
        self._pictures = base.manifest.sizes.pictures

    def __len__(self) -> int:
        return self._products - self.delta.base_hidden + len(self.delta.row_of)

    @cached_property
    def pictures(self) -> int:
        """How many pictures these products have."""
        delta = self.delta
        return int(np.count_nonzero(delta.base_images_live) + np.count_nonzero(delta.images_live))

    @property
    def rows(self) -> int:
        """How many rows of products there are, those that no longer count among them."""
        return self._products + self.delta.products

    def row_of(self, id: str) -> int:
        """The row of a product; KeyError if there is none with this id."""
        return self.items.row_of(id)

    def item(self, row: int) -> Item:
        """A product's record."""
        return self.items[row]

    @cached_property
    def product_of_image(self) -> NDArray[np.int32]:
        """The product's row by picture row: int32 [pictures]."""
        if not self.delta.pictures:
            return self.base.product_of_image
        own = self.delta.product_of_image + np.int32(self._products)
        return np.concatenate([self.base.product_of_image, own])

    @cached_property
    def masks(self) -> Masks:
        """Which products match a filter, remembered."""
        return Masks(self.items)

    def image_rows(self, row: int) -> range:
        """The picture rows of a product, one a view, in feed order."""
        if row < self._products:
            return self.base.image_rows(row)
        first = self.delta.rows.first_image
        own = row - self._products
        return range(self._pictures + first[own], self._pictures + first[own + 1])

    def image_states(self, rows: Rows) -> QuantisedStates:
        """States of pictures: [n, P, H]."""

        def own(row: int) -> QuantisedStates:
            put, view = self.delta.rows.views[row]
            return self.delta.rows.puts[put].image_states(view)

        return _gather(rows, self._pictures, self.base.image_states, own)

    def text_states(self, rows: Rows) -> QuantisedStates:
        """States of products' texts, padded to the longest of them with scale 0: [n, T, H]."""
        return _gather(
            rows,
            self._products,
            self.base.text_states,
            lambda row: self.delta.rows.puts[row].text_states(),
        )

    def image_embeddings(self, rows: Rows) -> Embeddings:
        """float32 [n, E] of pictures."""
        return _gather_embeddings(
            rows, self._pictures, self.base.image_embeddings, self.delta.image_embeddings
        )

    def text_embeddings(self, rows: Rows) -> Embeddings:
        """float32 [n, E] of products' texts."""
        return _gather_embeddings(
            rows, self._products, self.base.text_embeddings, self.delta.text_embeddings
        )

    def search_images(self, embedding: Embeddings, k: int, *, among: Mask | None = None) -> Found:
        """The k most similar picture rows and their similarities, best first.

        Args:
            embedding: float32 [E] of unit length.
            k: at most so many.
            among: bool [pictures]: only those marked.
        """
        delta = self.delta
        return _search(
            embedding,
            k,
            among,
            self._pictures,
            self.base.search_images,
            delta.base_images_live if delta.base_hidden else None,
            delta.image_embeddings,
            delta.images_live,
        )

    def search_texts(self, embedding: Embeddings, k: int, *, among: Mask | None = None) -> Found:
        """The k most similar product rows; as `search_images`, `among` bool [rows]."""
        delta = self.delta
        return _search(
            embedding,
            k,
            among,
            self._products,
            self.base.search_texts,
            delta.base_live if delta.base_hidden else None,
            delta.text_embeddings,
            delta.live,
        )

    def image(self, image_row: int) -> tuple[bytes, str]:
        """A picture as it is served, and its media type; IndexError if there is no such row."""
        if image_row < self._pictures:
            return self.base.image(image_row)
        if image_row >= self._pictures + self.delta.pictures:
            raise IndexError(f"picture rows go from 0 to {len(self.product_of_image) - 1}")
        put, view = self.delta.rows.views[image_row - self._pictures]
        data = self.delta.rows.puts[put].picture(view)
        return data, media_type(data)


#: What is searched: a snapshot, or one with later writes on top.
AnySnapshot = Snapshot | LiveSnapshot


def _gather(
    rows: Rows,
    split: int,
    base: Callable[[Rows], QuantisedStates],
    own: Callable[[int], QuantisedStates],
) -> QuantisedStates:
    """States of rows of both sides, padded to the longest with scale 0."""
    index = np.asarray(rows, dtype=np.int64)
    ours = index >= split
    if not ours.any():
        return base(index)
    places = np.flatnonzero(~ours)
    first = base(index[places])
    states = [own(row - split) for row in index[ours].tolist()]
    length = max(max(len(each) for each in states), first.values.shape[1] if len(places) else 0)
    width = states[0].values.shape[1]
    values = np.zeros((len(index), length, width), dtype=np.int8)
    scales = np.zeros((len(index), length), dtype=np.float32)
    if len(places):
        values[places, : first.values.shape[1]] = first.values
        scales[places, : first.values.shape[1]] = first.scales
    for place, each in zip(np.flatnonzero(ours).tolist(), states, strict=True):
        values[place, : len(each)] = each.values
        scales[place, : len(each)] = each.scales
    return QuantisedStates(values, scales)


def _gather_embeddings(
    rows: Rows, split: int, base: Callable[[Rows], Embeddings], own: Embeddings
) -> Embeddings:
    index = np.asarray(rows, dtype=np.int64)
    ours = index >= split
    if not ours.any():
        return base(index)
    found = np.empty((len(index), own.shape[1]), dtype=np.float32)
    found[~ours] = base(index[~ours])
    found[ours] = own[index[ours] - split]
    return found


def _search(
    embedding: Embeddings,
    k: int,
    among: Mask | None,
    split: int,
    base: Search,
    base_live: Mask | None,
    own: Embeddings,
    own_live: Mask,
) -> Found:
    """Both sides, merged by similarity.

    Args:
        embedding: float32 [E].
        k: at most so many rows.
        among: bool [rows of both], or None for all.
        split: how many rows the base has.
        base: its search.
        base_live: the rows of the base that count; None when all of them do.
        own: float32 [rows of the delta, E].
        own_live: the rows of the delta that count.
    """
    if among is not None:
        base_live = among[:split] if base_live is None else among[:split] & base_live
        own_live = among[split:] & own_live
    rows, similarities = base(embedding, k, among=base_live)
    own_rows, own_similarities = nearest(own, embedding, k, own_live)
    if not len(own_rows):
        return rows, similarities
    rows = np.concatenate([rows, own_rows + split])
    similarities = np.concatenate([similarities, own_similarities])
    best = np.argsort(-similarities, kind="stable")[:k]
    return rows[best], similarities[best]
