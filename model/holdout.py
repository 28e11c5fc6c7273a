"""Products kept out of training, to choose by."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from model.catalogue import Catalogue
from model.errors import TrainingError
from model.ranking import number_by_value


def hold_out(catalogue: Catalogue, share: float, seed: int = 0) -> tuple[Catalogue, Catalogue]:
    """Split a catalogue into training and held-out products; one text stays on one side.

    Args:
        catalogue: to split; both parts share its pictures.
        share: of the different texts to hold out, above 0 and below 1.
        seed: of the draw.

    Raises:
        TrainingError: nothing would be left to train on, or fewer than two texts to rank.
    """
    numbers = number_by_value([product.text for product in catalogue.products])
    texts = int(numbers.max(initial=-1)) + 1
    count = round(share * texts)
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
        mark = f"{catalogue.fingerprint} {share} {seed} {keep}"
        return dataclasses.replace(
            catalogue, products=products, fingerprint=hashlib.sha256(mark.encode()).hexdigest()
        )

    return part(True), part(False)
