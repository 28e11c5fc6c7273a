"""A snapshot, opened: products, states, recall and pictures, memory-mapped and read-only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.items import Item, Items, count_items
from index.manifest import (
    AGAIN,
    Manifest,
    check_hashes,
    check_sizes,
    read_manifest,
)
from index.masks import Masks
from index.recall import Embeddings, RecallIndex
from index.recall_device import RecallDevice
from index.snapshot_folder import locate
from index.states import ImageStates, Rows, TextStates, open_array
from model.errors import ImageError, SnapshotError
from model.preprocess import verify_image
from model.states import QuantisedStates

_MEDIA_TYPES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG", "image/png"), (b"RIFF", "image/webp"))
_CANARIES = 8
_STEPS = 1 << 16


def media_type(picture: bytes) -> str:
    """The media type of a picture that is served, by its first bytes."""
    for magic, name in _MEDIA_TYPES:
        if picture.startswith(magic):
            return name
    return "application/octet-stream"


def _steps(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """From each value to the next, some at a time."""
    for start in range(0, len(values) - 1, _STEPS):
        yield np.diff(values[start : start + _STEPS + 1])


class Snapshot:
    """One published snapshot; get one from `open`. Safe to use from several threads, if all of it
    is read (`read`).

    A picture row is a row of the `image_*` files, a product row one of the others.
    `product_of_image` int32 [pictures] is the product's row by picture row.
    """

    def __init__(self, path: Path, manifest: Manifest, recall_device: RecallDevice = "cpu") -> None:
        self.path = path
        self.manifest = manifest
        self.name = manifest.name
        self.model_id = manifest.model_id
        self.created = manifest.created
        arrays = {
            name: open_array(path / name, dtype, shape)
            for name, (dtype, shape) in manifest.sizes.arrays().items()
        }
        held = count_items(path / "items.parquet")
        if held != manifest.sizes.products:
            raise SnapshotError(
                f"{path / 'items.parquet'} holds {held:,} products, the manifest says "
                f"{manifest.sizes.products:,}: {AGAIN}"
            )
        self._image_states = ImageStates(arrays["image_states.npy"], arrays["image_scales.npy"])
        self._text_states = TextStates(
            arrays["text_states.npy"], arrays["text_scales.npy"], arrays["text_offsets.npy"]
        )
        self.product_of_image: NDArray[np.int32] = arrays["image_products.npy"]
        self._image_offsets: NDArray[np.int64] = arrays["image_offsets.npy"]
        self._images = np.memmap(path / "images.bin", dtype=np.uint8, mode="r")
        self._image_recall, self._text_recall = (
            RecallIndex(
                path / f"{modality}.faiss",
                arrays[f"{modality}_embeddings.npy"],
                manifest.recall[modality],
                device=recall_device,
            )
            for modality in ("image", "text")
        )

    @classmethod
    def open(
        cls,
        root: Path,
        name: str | None = None,
        *,
        model_id: str | None = None,
        verify: bool = False,
        recall_device: RecallDevice = "cpu",
        read_items: bool = True,
    ) -> Snapshot:
        """Open a snapshot after the checks that cost nothing: sizes, counts and shapes.

        Args:
            root: the folder of all snapshots.
            name: which one; the one named in `CURRENT` by default.
            model_id: refuse a snapshot that another model made.
            verify: also compare every file with its checksum, before any of it is parsed.
            recall_device: where it is searched.
            read_items: read what is not mapped now, and not when it is first asked for: the items,
                a kilobyte a product or more.

        Raises:
            FashionBertError: FAISS cannot use that device.
            SnapshotError: it is missing, damaged, or was made by another model.
        """
        path = locate(root, name)
        manifest = read_manifest(path)
        if manifest.name != path.name:
            raise SnapshotError(
                f"{path} is snapshot {manifest.name} by its manifest: give the folder that name"
            )
        if model_id is not None and manifest.model_id != model_id:
            raise SnapshotError(
                f"snapshot {path} was made by model {manifest.model_id}, but the bundle in use is "
                f"model {model_id}: build the index again with this bundle, or use the bundle that "
                "made it"
            )
        check_sizes(path, manifest)
        if verify:
            check_hashes(path, manifest)
        snapshot = cls(path, manifest, recall_device)
        if read_items:
            snapshot.read()
        if verify:
            snapshot.check_canaries()
        return snapshot

    def read(self) -> None:
        """Read what is not mapped, if it is not read yet.

        Raises:
            SnapshotError: it is damaged.
        """
        _ = self.items, self._first_image

    def __len__(self) -> int:
        return self.manifest.sizes.products

    @property
    def pictures(self) -> int:
        """How many pictures its products have."""
        return self.manifest.sizes.pictures

    def row_of(self, id: str) -> int:
        """The row of a product; KeyError if there is none with this id."""
        return self.items.row_of(id)

    def item(self, row: int) -> Item:
        """A product's record."""
        return self.items[row]

    @cached_property
    def items(self) -> Items:
        """All products, and their attributes by column.

        Raises:
            SnapshotError: not read before, and damaged.
        """
        return Items(self.path / "items.parquet")

    @property
    def ids(self) -> list[str]:
        """The products' ids by row."""
        return self.items.ids

    @cached_property
    def masks(self) -> Masks:
        """Which products match a filter, remembered."""
        return Masks(self.items)

    @cached_property
    def _first_image(self) -> NDArray[np.int64]:
        """The first picture row of each product, and the number of pictures."""
        return np.searchsorted(self.product_of_image, np.arange(len(self) + 1))

    def image_rows(self, row: int) -> range:
        """The picture rows of a product, one a view, in feed order."""
        return range(int(self._first_image[row]), int(self._first_image[row + 1]))

    def image_states(self, rows: Rows) -> QuantisedStates:
        """States of pictures: [n, P, H]."""
        return self._image_states.gather(rows)

    def text_states(self, rows: Rows) -> QuantisedStates:
        """States of products' texts, padded to the longest of them with scale 0: [n, T, H]."""
        return self._text_states.gather(rows)

    @property
    def all_image_states(self) -> QuantisedStates:
        """States of all pictures: [pictures, P, H], not copied."""
        return QuantisedStates(self._image_states.values, self._image_states.scales)

    @property
    def text_lengths(self) -> NDArray[np.int64]:
        """Tokens of all products' texts: [products]."""
        return np.diff(self._text_states.offsets)

    def image_embeddings(self, rows: Rows) -> Embeddings:
        """float32 [n, E] of pictures."""
        return self._image_recall.embeddings[np.asarray(rows, dtype=np.int64)]

    def text_embeddings(self, rows: Rows) -> Embeddings:
        """float32 [n, E] of products' texts."""
        return self._text_recall.embeddings[np.asarray(rows, dtype=np.int64)]

    def search_images(
        self, embedding: Embeddings, k: int, *, among: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], Embeddings]:
        """The k most similar picture rows and their similarities, best first.

        Args:
            embedding: float32 [E] of unit length.
            k: at most so many.
            among: bool [pictures]: only those marked.
        """
        return self._image_recall.search(embedding, k, among=among)

    def search_texts(
        self, embedding: Embeddings, k: int, *, among: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], Embeddings]:
        """The k most similar product rows; as `search_images`, `among` bool [products]."""
        return self._text_recall.search(embedding, k, among=among)

    def image(self, image_row: int) -> tuple[bytes, str]:
        """A picture as it is served, and its media type; IndexError if there is no such row."""
        if not 0 <= image_row < self.manifest.sizes.pictures:
            raise IndexError(f"picture rows go from 0 to {self.manifest.sizes.pictures - 1}")
        start, end = self._image_offsets[image_row : image_row + 2]
        data = self._images[start:end].tobytes()
        return data, media_type(data)

    def check_canaries(self) -> None:
        """See that the files belong to each other: what a checksum of each alone cannot tell.

        Raises:
            SnapshotError: naming one that does not.
        """
        sizes = self.manifest.sizes
        for name, offsets, end in (
            ("image_offsets.npy", self._image_offsets, len(self._images)),
            ("text_offsets.npy", self._text_states.offsets, sizes.text_tokens),
        ):
            if (
                offsets[0] != 0
                or offsets[-1] != end
                or any((d <= 0).any() for d in _steps(offsets))
            ):
                raise SnapshotError(f"{self.path / name} does not divide its file: {AGAIN}")
        products = self.product_of_image
        if (
            products[0] != 0
            or products[-1] != len(self) - 1
            or any((~np.isin(each, (0, 1))).any() for each in _steps(products))
        ):
            raise SnapshotError(
                f"{self.path / 'image_products.npy'} leaves a product without a picture: {AGAIN}"
            )
        for name, recall in (("image", self._image_recall), ("text", self._text_recall)):
            rows = np.unique(np.linspace(0, len(recall) - 1, _CANARIES).astype(np.int64))
            if not recall.check(rows):
                raise SnapshotError(
                    f"{self.path / f'{name}.faiss'} does not find the snapshot's own embeddings: "
                    f"{AGAIN}"
                )
        try:
            verify_image(self.image(0)[0])
        except ImageError as error:
            raise SnapshotError(
                f"{self.path / 'images.bin'} does not start with a picture: {AGAIN}"
            ) from error
