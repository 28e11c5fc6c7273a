"""Products kept out of training, to choose by."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from model.catalogue import Catalogue
from model.errors import TrainingError
from model.ranking import number_by_value


def shared_products(train: Catalogue, valid: Catalogue) -> tuple[int, int]:
    """How many products to choose by are trained on: by their id, and by their text."""
    ids = {product.id for product in train.products}
    texts = {_plain(product.text) for product in train.products}
    return (
        sum(product.id in ids for product in valid.products),
        sum(_plain(product.text) in texts for product in valid.products),
    )


def _plain(text: str) -> str:
    """A text as an uncased model reads it, more or less."""
    return text.casefold().strip()


def hold_out(catalogue: Catalogue, share: float, seed: int = 0) -> tuple[Catalogue, Catalogue]:
    """Split a catalogue into training and held-out products; one text stays on one side.

    Texts that differ in capitals only, or in space around them, are one text here.

    Args:
        catalogue: to split; both parts share its pictures.
        share: of the different texts to hold out, above 0 and below 1.
        seed: of the draw.

    Raises:
        TrainingError: nothing would be left to train on, or fewer than two texts to rank.
    """
    numbers = number_by_value([_plain(product.text) for product in catalogue.products])
    texts = int(numbers.max(initial=-1)) + 1
    count = round(share * texts) if 0 < share < 1 else 0
    if not 2 <= count < texts:
        raise TrainingError(
            f"{share:.0%} of {texts} different texts cannot be held out: give validation products "
            "with --valid, or another share with --hold-out"
        )
    held = np.isin(numbers, np.random.default_rng(seed).permutation(texts)[:count])

    def part(keep: bool) -> Catalogue:
        products = [
            product
            for product, is_held in zip(catalogue.products, held, strict=True)
            if is_held != keep
        ]
        digest = hashlib.sha256(f"{catalogue.fingerprint} {keep}".encode())
        digest.update(held.tobytes())
        return dataclasses.replace(catalogue, products=products, fingerprint=digest.hexdigest())

    return part(True), part(False)
