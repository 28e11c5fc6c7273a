"""The measures that garments are cut to, and how they vary from one garment to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.demo.bodies import Body


@dataclass(frozen=True, slots=True)
class Cut:
    """How one garment differs from another with the same attributes."""

    width: float = 1.0
    flare: float = 1.0
    spread: float = 3.0
    """How far the sleeves stand off, degrees."""
    fabric_scale: float = 1.0
    folds: int = 0


def sample_cut(rng: np.random.Generator) -> Cut:
    """Draw a cut at random."""
    return Cut(
        width=float(rng.uniform(0.95, 1.05)),
        flare=float(rng.uniform(0.9, 1.12)),
        spread=float(rng.choice([0.0, 3.0, 6.0, 9.0])),
        fabric_scale=float(rng.choice([0.9, 1.0, 1.12])),
        folds=int(rng.integers(8)),
    )


BODIES = {
    "t-shirt": Body(25, 24, 24.5),
    "vest top": Body(22, 20.5, 22.5, shoulder=18.5),
    "shirt": Body(26, 24.5, 26, 70, shoulder=21, hem_drop=-7),
    "polo shirt": Body(25.5, 24.5, 25),
    "blouse": Body(24, 22.5, 26.5, 63, shoulder=19.5),
    "sweater": Body(27, 26, 24.5, 64, shoulder=21.5),
    "hoodie": Body(28.5, 28, 26, 67, shoulder=22.5),
    "cardigan": Body(26, 25, 26, 66, shoulder=21),
    "jacket": Body(28, 27, 27, 64, shoulder=22.5),
    "blazer": Body(25.5, 22.0, 26.5, 72, shoulder=21.5),
    "coat": Body(28, 26.5, 33, 104, shoulder=22.5, waist_y=44),
    "dress": Body(22.5, 18.5, 30, 90, shoulder=18.5, waist_y=41),
    "jumpsuit": Body(22.5, 18.5, 19.5, 44, shoulder=18.5, waist_y=41),
}
TOP_LENGTHS = {"cropped": -18.0, "regular": 0.0, "longline": 20.0}
COAT_LENGTHS = {"knee-length": 104.0, "midi": 128.0}
SKIRT_LENGTHS = {"mini": 40.0, "knee-length": 60.0, "midi": 80.0, "maxi": 102.0}
LEG_LENGTHS = {"mini": 37.0, "knee-length": 55.0, "cropped": 78.0, "full-length": 102.0}

MAX_SCALES = {
    "dress": 0.0072,
    "jumpsuit": 0.0068,
    "skirt": 0.0094,
    "pleated skirt": 0.0094,
    "trousers": 0.0086,
    "wide-leg trousers": 0.0086,
    "jeans": 0.0086,
    "shorts": 0.0110,
    "coat": 0.0072,
    "vest top": 0.0108,
}
"""At most so many canvas heights a centimetre: lengths stay comparable within a type."""
