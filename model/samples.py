"""Products to calibrate a precision on, or to measure what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.preprocess import decode_image
from model.product import Catalogue


@dataclass(frozen=True, slots=True)
class Samples:
    """N texts, and pixels uint8 [N, S, S, 3]."""

    texts: Sequence[str]
    pixels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.texts)


def samples_of(catalogue: Catalogue, image_size: int, count: int = 200) -> Samples:
    """At most `count` products, evenly over the catalogue, each with its first picture."""
    total = len(catalogue.products)
    rows = np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)).tolist()
    products = [catalogue.products[row] for row in rows]
    pixels = [
        decode_image(catalogue.pictures.read(product.images[0]), image_size) for product in products
    ]
    return Samples([product.text for product in products], np.stack(pixels))


def noise(image_size: int, count: int = 8) -> Samples:
    """Texts and pictures without sense, for a first look where there is no feed."""
    generator = np.random.default_rng(0)
    shades = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    rows = np.arange(image_size) * 8 // image_size
    words = [
        "red",
        "blue",
        "black",
        "white",
        "dress",
        "shirt",
        "shoe",
        "bag",
        "long",
        "short",
        "cotton",
        "wool",
    ]
    texts = [" ".join(generator.choice(words, 3 + 2 * number)) for number in range(count)]
    return Samples(texts, shades[:, rows][:, :, rows])
