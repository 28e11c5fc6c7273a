"""Products kept out of training, to choose by."""

from __future__ import annotations

import dataclasses
import hashlib
import unicodedata
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import CatalogueError, TrainingError
from model.files import write_atomically
from model.product import Catalogue

#: Different texts that either side has at least: with one there is nothing to tell apart.
_LEAST = 2


def shared_products(train: Catalogue, valid: Catalogue) -> tuple[int, int]:
    """How many products to choose by are trained on: by their id, and by their text."""
    ids = {product.id for product in train.products}
    texts = {uncased(product.text) for product in train.products}
    return (
        sum(product.id in ids for product in valid.products),
        sum(uncased(product.text) in texts for product in valid.products),
    )


def uncased(text: str) -> str:
    """A text as an uncased model reads it, more or less."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def hold_out(catalogue: Catalogue, share: float) -> tuple[Catalogue, Catalogue]:
    """Split a catalogue into training and held-out products; one text stays on one side.

    Texts that differ in capitals only, or in the space in them, are one text here. A text is held
    out if its hash is among the lowest `share` of all hashes, whatever else the catalogue holds:
    so what was held out once is held out of every run on a feed that grew, by the same share or a
    larger one. How many they are is therefore near the share, not exactly it. Where fewer than two
    texts are that low the two lowest are taken, which a run on a feed that grew may learn. With a
    share of 5 % that happens in two of five catalogues of 40 texts, and in hardly any of 150.

    Args:
        catalogue: to split; both parts share its pictures.
        share: of the different texts to hold out, above 0 and below 1.

    Raises:
        TrainingError: a side would have fewer than two texts.
    """
    texts = [uncased(product.text) for product in catalogue.products]
    hashes = {text: _hash(text) for text in texts}
    if len(hashes) < 2 * _LEAST:
        raise TrainingError(
            f"{len(catalogue)} products with {len(hashes)} different texts are too few to hold "
            f"some out, which takes {2 * _LEAST} texts: give more products, or others to choose "
            "by with --valid"
        )
    count = round(share * len(hashes)) if 0 < share < 1 else 0
    if not _LEAST <= count <= len(hashes) - _LEAST:
        raise TrainingError(
            f"{share:.0%} of {len(hashes)} different texts cannot be held out: give validation "
            "products with --valid, or another share with --hold-out"
        )
    below = sum(place < share for place in hashes.values())
    lowest = sorted(hashes, key=lambda text: (hashes[text], text))
    chosen = set(lowest[: min(max(below, _LEAST), len(lowest) - _LEAST)])
    held = np.array([text in chosen for text in texts], dtype=np.bool_)
    return part(catalogue, ~held), part(catalogue, held)


def _hash(text: str) -> float:
    """A text's place among all texts: evenly spread from 0 to below 1."""
    # Half a character, which a feed may hold, is no UTF-8.
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def part(catalogue: Catalogue, kept: NDArray[np.bool_]) -> Catalogue:
    """Some of a catalogue's products, with fingerprints of their own.

    Args:
        catalogue: whose; the part shares its pictures.
        kept: bool [N].
    """
    products = [product for product, stays in zip(catalogue.products, kept, strict=True) if stays]
    everything, seen = (
        hashlib.sha256(whole.encode() + kept.tobytes()).hexdigest()
        for whole in (catalogue.fingerprint, catalogue.pictures_fingerprint)
    )
    return dataclasses.replace(
        catalogue, products=products, fingerprint=everything, pictures_fingerprint=seen
    )


def write_ids(path: Path, catalogue: Catalogue) -> None:
    """Write a catalogue's product ids, one a line, for `only`.

    Raises:
        OSError: it cannot be written.
    """
    lines = "".join(f"{_one_line(product.id)}\n" for product in catalogue.products)
    write_atomically(path, lines.encode())


def read_ids(path: Path) -> set[str]:
    """The product ids in a file, one a line; space around them and empty lines do not count.

    Raises:
        CatalogueError: it cannot be read, or holds none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(
            f"{path} cannot be read ({error}): give a file with a product id a line, such as a "
            "run's held_out.txt"
        ) from error
    ids = {_one_line(line) for line in text.split("\n")} - {""}
    if not ids:
        raise CatalogueError(f"{path} is empty: give a file with a product id a line")
    return ids


def _one_line(id: str) -> str:
    return " ".join(id.split())


def only(catalogue: Catalogue, ids: Collection[str]) -> Catalogue:
    """The products of a catalogue that have one of these ids.

    Raises:
        CatalogueError: none has.
    """
    wanted = {_one_line(id) for id in ids}
    kept = np.array([_one_line(product.id) in wanted for product in catalogue.products], np.bool_)
    if not kept.any():
        raise CatalogueError(
            f"none of the {len(wanted)} ids is a product's of this feed: give the feed that they "
            "come from"
        )
    return part(catalogue, kept)
