"""Pictures of a catalogue, made ready: pixels for the encoder and the bytes that are served."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.preprocess import (
    DEFAULT_LIMITS,
    FORMATS,
    ImageLimits,
    decode_sized,
    open_image,
    upright,
)

SERVED_SIDE = 512
SERVED_BYTES = 200 * 1024
_QUALITY = 85


@dataclass(frozen=True, slots=True)
class Prepared:
    """`pixels` uint8 [S, S, 3] for the encoder, `served` what a page shows."""

    pixels: NDArray[np.uint8]
    served: bytes


def prepare_image(data: bytes, size: int, limits: ImageLimits = DEFAULT_LIMITS) -> Prepared:
    """Decode a picture for the encoder, and shrink it for the page.

    Args:
        data: a JPEG, PNG or WebP.
        size: S, the encoder's.
        limits: what it may weigh.

    Raises:
        ImageError: it cannot be decoded.
    """
    pixels, own = decode_sized(data, size, limits)
    return Prepared(pixels, data if _is_small(own, data) else served_image(data, limits))


def served_image(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> bytes:
    """A picture as it is, if at most 512 pixels on its long side and 200 KB; else such a JPEG.

    Args:
        data: a picture that `decode_image` takes.
        limits: as there.

    Raises:
        ImageError: it cannot be decoded.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if _is_small(image.size, data):
            return data
        if image.format == "JPEG":
            # Lazily opened, so that it is decoded at the nearest scale above what is needed.
            image.thumbnail((SERVED_SIDE, SERVED_SIDE))
            upright(image)
            small = image.convert("RGB")
        else:
            small = open_image(data, limits, SERVED_SIDE)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _is_small(size: tuple[int, int], data: bytes) -> bool:
    """Whether a picture is served as it is."""
    return max(size) <= SERVED_SIDE and len(data) <= SERVED_BYTES
