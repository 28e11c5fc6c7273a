"""Draws a garment as a shop would photograph it: laid flat, softly lit, on a quiet background."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from model.demo.attributes import COLOURS, RGB, Garment
from model.demo.canvas import Canvas, Fabric, bounds
from model.demo.cuts import MAX_SCALES, Cut
from model.demo.tailor import KNITS, cut_pieces

SUPERSAMPLING = 2
BACKGROUNDS: tuple[tuple[RGB, RGB], ...] = (
    ((255, 255, 255), (246, 246, 246)),
    ((252, 252, 252), (255, 255, 255)),
    ((240, 237, 233), (224, 219, 213)),
    ((233, 231, 228), (246, 244, 242)),
    ((246, 240, 232), (235, 226, 215)),
    ((238, 242, 246), (220, 228, 236)),
    ((247, 237, 238), (236, 222, 225)),
    ((238, 243, 236), (223, 231, 220)),
    ((242, 238, 247), (228, 222, 236)),
)
"""Upper and lower colour of each background: whites, warm greys and pale pastels."""


@dataclass(frozen=True, slots=True)
class View:
    """How a garment is photographed; two views of one garment differ in nothing else."""

    background: int = 0
    rotation: float = 0.0
    """Degrees."""
    zoom: float = 1.0
    aspect: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    """Shares of the picture's width and height."""
    mirror: bool = False


def sample_view(rng: np.random.Generator) -> View:
    """Draw a view at random."""
    return View(
        background=int(rng.integers(len(BACKGROUNDS))),
        rotation=float(np.clip(rng.normal(0, 2.2), -5, 5)),
        zoom=float(rng.uniform(0.93, 1.03)),
        aspect=float(rng.uniform(0.96, 1.04)),
        shift=(float(rng.uniform(-0.02, 0.02)), float(rng.uniform(-0.02, 0.02))),
        mirror=bool(rng.random() < 0.5),
    )


def draw_garment(
    garment: Garment,
    *,
    cut: Cut | None = None,
    view: View | None = None,
    size: tuple[int, int] = (192, 256),
) -> Image.Image:
    """Return an RGB picture, `size` (width, height), of `garment`."""
    cut, view = cut or Cut(), view or View()
    width, height = size
    layer = _lay_out(garment, cut, width * SUPERSAMPLING, height * SUPERSAMPLING)
    layer = _pose(layer, view)
    alpha = layer.getchannel("A")
    drop = max(1, round(0.014 * height))
    shadow = alpha.filter(ImageFilter.BoxBlur(0.010 * height)).filter(
        ImageFilter.BoxBlur(0.014 * height)
    )
    lit, dark = _background(view.background, width, height)
    picture = Image.composite(dark, lit, ImageChops.offset(shadow, drop // 2, drop))
    picture.paste(layer.convert("RGB"), mask=alpha)
    return picture


def _lay_out(garment: Garment, cut: Cut, width: int, height: int) -> Image.Image:
    """Paint the garment upright in the middle of a transparent canvas."""
    pieces = cut_pieces(garment, cut)
    left, top, right, bottom = bounds(pieces)
    cap = MAX_SCALES.get(garment.product_type, 0.0104)
    scale = min(0.90 * height / (bottom - top), 0.90 * width / (right - left), cap * height)
    if garment.product_type in KNITS:
        weave = "knit"
    else:
        weave = "denim" if garment.product_type == "jeans" else "plain"
    fabric = Fabric(
        colour=COLOURS[garment.colour],
        second=COLOURS[garment.second_colour] if garment.second_colour else None,
        pattern=garment.pattern,
        weave=weave,
        scale=cut.fabric_scale,
        block_y=top + 0.54 * (bottom - top),
        folds=cut.folds,
    )
    centre = ((left + right) / 2, (top + bottom) / 2)
    canvas = Canvas(width, height, scale, centre, fabric)
    canvas.paint(pieces)
    return canvas.image()


def _pose(layer: Image.Image, view: View) -> Image.Image:
    """Turn, scale, shift and mirror the layer about its middle; return it in the final size."""
    width, height = layer.size
    angle = math.radians(view.rotation)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    stretch = np.diag([view.zoom * view.aspect, view.zoom / view.aspect])
    forward = turn @ stretch @ np.diag([-1.0 if view.mirror else 1.0, 1.0])
    centre = np.array([width / 2, height / 2])
    target = centre + np.array(view.shift) * (width, height)
    # Only the part where the garment ends up is computed.
    left, top, right, bottom = layer.getchannel("A").getbbox() or (0, 0, width, height)
    corners = np.array([(left, top), (right, top), (left, bottom), (right, bottom)])
    posed = (corners - centre) @ forward.T + target
    low = np.maximum(np.floor(posed.min(axis=0) / SUPERSAMPLING).astype(int), 0)
    high = np.minimum(
        np.ceil(posed.max(axis=0) / SUPERSAMPLING).astype(int),
        np.array([width, height]) // SUPERSAMPLING,
    )
    back = np.linalg.inv(forward)
    offset = centre - back @ (target - low * SUPERSAMPLING)
    size = (high - low) * SUPERSAMPLING
    # As RGBX the colours are not premultiplied: transparent pixels have the cloth's colour, so
    # edges keep it, and Pillow's conversions for RGBA would take as long again.
    garment = Image.merge("RGBX", layer.split()).transform(
        (int(size[0]), int(size[1])),
        Image.Transform.AFFINE,
        (*back[0], offset[0], *back[1], offset[1]),
        resample=Image.Resampling.BILINEAR,
    )
    small = Image.merge("RGBA", garment.reduce(SUPERSAMPLING).split())
    final = Image.new("RGBA", (width // SUPERSAMPLING, height // SUPERSAMPLING))
    final.paste(small, (int(low[0]), int(low[1])))
    return final


@lru_cache(maxsize=32)
def _background(index: int, width: int, height: int) -> tuple[Image.Image, Image.Image]:
    """Return a background, and the same in the shade."""
    upper, lower = (np.array(c, dtype=np.float32) for c in BACKGROUNDS[index])
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    lit = np.clip(upper + (lower - upper) * y - 3.0 * x**2 + 0.5, 0, 255)
    shaded = [Image.fromarray((lit * share).astype(np.uint8)) for share in (1.0, 0.66)]
    return shaded[0], shaded[1]
