"""Pictures changed at random while a network learns from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A shift is at most this part of a picture's side: 1/16.
_PARTS = 16


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to pictures at random. Colours stay, as the texts name them."""

    mirror: bool = True
    shift: bool = True


AS_THEY_ARE = Augmentation(mirror=False, shift=False)


def augmented(
    pixels: NDArray[np.uint8],
    rng: np.random.Generator,
    augmentation: Augmentation = Augmentation(),
    mirrored: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Pictures mirrored, and shifted by up to 1/16 of their side, white where nothing is left.

    Args:
        pixels: uint8 [B, S, S, 3].
        rng: of this batch. As much is drawn of it whatever is done.
        augmentation: which of the two is done.
        mirrored: bool [B], which may be mirrored; all by default.
    """
    size = pixels.shape[1]
    reach = size // _PARTS
    result: NDArray[Any] = np.full_like(pixels, 255)
    for row, picture in enumerate(pixels):
        mirror = rng.random() < 0.5 and (mirrored is None or mirrored[row])
        seen = picture[:, ::-1] if mirror and augmentation.mirror else picture
        down, right = (int(shift) for shift in rng.integers(-reach, reach + 1, 2))
        if not augmentation.shift:
            down = right = 0
        result[row, max(0, down) : size + min(0, down), max(0, right) : size + min(0, right)] = (
            seen[max(0, -down) : size - max(0, down), max(0, -right) : size - max(0, right)]
        )
    return result
