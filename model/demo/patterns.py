"""Fabric: where a pattern's second colour lies, and how cloth folds. All fields are cached.

A field covers the whole canvas; its scale follows the canvas, not the garment, so that a pattern
is equally legible on a vest top and on a coat.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Field = NDArray[np.float32]


def _float32(values: NDArray[np.floating]) -> Field:
    return np.asarray(values, dtype=np.float32)


def _grid(height: int, width: int, angle: int) -> tuple[Field, Field]:
    """Return rotated coordinates, in canvas heights, [height, width] each; 0 is the centre."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = (x - width / 2) / height, (y - height / 2) / height
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return _float32(x * c + y * s), _float32(y * c - x * s)


def _bands(value: Field, period: float, share: float, sharpness: float) -> Field:
    """Return 1 in a band of `share` of each `period`, 0 elsewhere, softly bounded."""
    wave = np.abs(((value / period) % 1.0) - 0.5) * 2  # 0 in the middle of the band
    return _float32(np.clip((share - wave) * sharpness * period + 0.5, 0, 1))


@lru_cache(maxsize=192)
def second_colour_field(
    pattern: str, angle: int, scale: float, height: int, width: int
) -> NDArray[np.uint8]:
    """Return how much of the second colour shows: [height, width], 255 being all.

    `pattern` is one of striped, checked, dotted, floral; `angle` turns it (degrees, clockwise);
    `scale` is 1 for the usual size.
    """
    share = _share(pattern, angle, scale, height, width)
    return np.asarray(share * 255 + 0.5, dtype=np.float32).astype(np.uint8)


def _share(pattern: str, angle: int, scale: float, height: int, width: int) -> Field:
    u, v = _grid(height, width, angle)
    if pattern == "striped":
        return _bands(v, 0.062 * scale, 0.42, height * 0.5)
    if pattern == "checked":
        period = 0.085 * scale
        across, down = _bands(u, period, 0.5, height * 0.5), _bands(v, period, 0.5, height * 0.5)
        return _float32(0.5 * across + 0.5 * down)
    if pattern == "dotted":
        return _dots(u, v, 0.078 * scale, height)
    if pattern == "floral":
        return _flowers(angle, 0.115 * scale, height, width)
    raise ValueError(f"no such pattern: {pattern!r}")


def _dots(u: Field, v: Field, period: float, height: int) -> Field:
    row = np.floor(v / period + 0.5)
    du = (u / period + 0.5 * (row % 2) + 0.5) % 1.0 - 0.5
    dv = v / period - row
    distance = np.hypot(du, dv) * period
    return _float32(np.clip((0.27 * period - distance) * height + 0.5, 0, 1))


def _flowers(angle: int, period: float, height: int, width: int) -> Field:
    """Five-petalled flowers with leaves, strewn on a jittered grid."""
    rng = np.random.default_rng(7)
    side = int(math.hypot(height, width)) + 8
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    step = period * height
    rows, columns = int(side / (step * 0.86)) + 2, int(side / step) + 2
    for row in range(rows):
        for column in range(columns):
            jx, jy, turn = rng.uniform(-0.12, 0.12), rng.uniform(-0.12, 0.12), rng.uniform(0, 6.3)
            size = step * rng.uniform(0.34, 0.44)
            cx = (column + 0.5 * (row % 2) + jx) * step
            cy = (row * 0.86 + jy) * step
            for leaf in (turn + 0.35, turn + 2.6):
                tip = (cx + math.cos(leaf) * size * 1.45, cy + math.sin(leaf) * size * 1.45)
                side_x, side_y = -math.sin(leaf) * size * 0.22, math.cos(leaf) * size * 0.22
                mid = (cx + math.cos(leaf) * size, cy + math.sin(leaf) * size)
                draw.polygon(
                    [
                        (cx, cy),
                        (mid[0] + side_x, mid[1] + side_y),
                        tip,
                        (mid[0] - side_x, mid[1] - side_y),
                    ],
                    fill=235,
                )
            draw.ellipse([cx - size, cy - size, cx + size, cy + size], fill=0)
            for petal in range(5):
                a = turn + petal * 2 * math.pi / 5
                px, py = cx + math.cos(a) * size * 0.56, cy + math.sin(a) * size * 0.56
                r = size * 0.40
                draw.ellipse([px - r, py - r, px + r, py + r], fill=255)
            r = size * 0.24
            draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=0)
    turned = image.rotate(-angle, resample=Image.Resampling.BILINEAR)
    left, top = (side - width) // 2, (side - height) // 2
    cut = turned.crop((left, top, left + width, top + height))
    return np.asarray(cut, dtype=np.float32) * np.float32(1 / 255)


FOLD_VARIANTS = 8


@lru_cache(maxsize=64)
def fold_field(kind: str, variant: int, height: int, width: int) -> Field:
    """Return lightness changes from folds, [height, width], about -1..1."""
    rng = np.random.default_rng([11, variant, len(kind)])
    if kind == "hanging":
        coarse = rng.normal(size=(4, 20)).astype(np.float32)
        fine = rng.normal(size=(3, 42)).astype(np.float32) * 0.5
    else:
        coarse = rng.normal(size=(10, 8)).astype(np.float32)
        fine = rng.normal(size=(17, 13)).astype(np.float32) * 0.6
    total = np.zeros((height, width), dtype=np.float32)
    for noise in (coarse, fine):
        image = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(image)
    if kind != "hanging":  # slant the folds: cloth drapes from the shoulders to the middle
        y, x = np.mgrid[0:height, 0:width].astype(np.float32) / height
        x = np.abs(x - width / height / 2)
        total = 0.7 * total + 0.5 * np.sin((y * 1.3 + x * 2.2) * 16 + total * 1.6)
    return _float32(np.clip(total / 1.6, -1, 1))


@lru_cache(maxsize=16)
def weave_field(kind: str, height: int, width: int) -> Field:
    """Return a fabric's own grain, [height, width], about -1..1: plain, knit or denim."""
    rng = np.random.default_rng(13)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) * (512 / height)
    noise = rng.normal(size=(height, width)).astype(np.float32)
    if kind == "knit":
        grain = np.sin(x * 0.9 + 0.9 * np.abs((y * 0.22) % 2 - 1)) * 1.4 + 0.3 * noise
    elif kind == "denim":
        grain = np.sin((x + y) * 1.1) * 0.7 + 0.9 * noise
    else:
        grain = 0.55 * noise
    return _float32(np.clip(grain, -2.5, 2.5) / 2)
