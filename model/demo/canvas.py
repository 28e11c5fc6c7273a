"""Paints pieces: outlines become shaded cloth with a pattern on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from model.demo.attributes import RGB
from model.demo.patterns import FOLD_VARIANTS, fold_field, second_colour_field, weave_field
from model.demo.pieces import FABRIC, INSIDE, Button, Cloth, Piece, Points, Ribs, Stroke

Pixels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Fabric:
    """What a garment is made of."""

    colour: RGB
    second: RGB | None
    pattern: str
    weave: str
    scale: float
    """Size of the pattern; 1 is usual."""
    block_y: float
    """Where a colour-blocked garment changes colour, centimetres."""
    folds: int
    """Which of the fold fields."""


def bounds(pieces: list[Piece]) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of all cloth, centimetres."""
    outlines = np.concatenate([p.outline for p in pieces if isinstance(p, Cloth)])
    (left, top), (right, bottom) = outlines.min(axis=0), outlines.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


class Canvas:
    """A transparent picture to paint pieces on: `rgb` [3, H, W] in 0..255, `alpha` [H, W]."""

    def __init__(
        self, width: int, height: int, scale: float, centre: tuple[float, float], fabric: Fabric
    ) -> None:
        """Show `scale` pixels a centimetre, with the point `centre` (cm) in the middle."""
        self.width, self.height, self.scale, self.fabric = width, height, scale, fabric
        self.origin = np.array([width / 2, height / 2]) - np.array(centre) * scale
        self.rgb = np.empty((3, height, width), dtype=np.float32)
        self.rgb[:] = _column(fabric.colour)
        self.alpha = np.zeros((height, width), dtype=np.uint8)
        dark = np.mean(fabric.colour) < 115
        self.button_rgb: RGB = (236, 228, 208) if dark else (62, 48, 40)

    def paint(self, pieces: list[Piece]) -> None:
        """Paint `pieces`, the first lowest."""
        for piece in pieces:
            if isinstance(piece, Cloth):
                self._cloth(piece)
            elif isinstance(piece, Stroke):
                self._stroke(piece)
            elif isinstance(piece, Ribs):
                self._ribs(piece)
            else:
                self._button(piece)

    def image(self) -> Image.Image:
        """Return the picture as RGBA; transparent pixels have the colour of the cloth nearby."""
        planes = [Image.fromarray(p) for p in np.clip(self.rgb, 0, 255).astype(np.uint8)]
        alpha = Image.fromarray(self.alpha).filter(ImageFilter.BoxBlur(0.8))
        return Image.merge("RGBA", [*planes, alpha])

    def _window(self, points: Points, pad: float) -> tuple[slice, slice, Points]:
        """Return the rows and columns that `points` (cm) cover, and the points in that window."""
        pixels = points * self.scale + self.origin
        x0, y0 = np.maximum(np.floor(pixels.min(axis=0) - pad).astype(int), 0)
        x1, y1 = np.ceil(pixels.max(axis=0) + pad).astype(int)
        x1, y1 = min(max(x1, x0 + 1), self.width), min(max(y1, y0 + 1), self.height)
        return slice(y0, y1), slice(x0, x1), pixels - (x0, y0)

    def _blend(self, rows: slice, columns: slice, mask: Pixels, colour: RGB) -> None:
        under = self.rgb[:, rows, columns]
        under += (_column(colour) - under) * mask

    def _cloth(self, piece: Cloth) -> None:
        blur = max(2.0, 0.018 * self.height * min(piece.depth, 1.0))
        rows, columns, local = self._window(piece.outline, blur * 2)
        shape = (columns.stop - columns.start, rows.stop - rows.start)
        mask_image = Image.new("L", shape, 0)
        ImageDraw.Draw(mask_image).polygon(local.ravel().tolist(), fill=255)
        mask = np.asarray(mask_image) > 127
        soft = _shares(mask_image.filter(ImageFilter.BoxBlur(blur)))
        under = self.rgb[:, rows, columns]
        if piece.depth > 0:  # the shadow on what lies below
            under *= 1 - 0.30 * min(piece.depth, 1.0) * soft
        change = self._shade(piece, soft, rows, columns) - 1
        base = self._base(piece, rows, columns)
        painted = base * (1 + 0.80 * change) + 42 * change
        alpha = self.alpha[rows, columns]
        # Beyond the edge too, where nothing is yet: smoothing the edge must not mix in a colour.
        np.copyto(under, painted, where=mask | ((alpha == 0) & (soft > 0.1)))
        np.copyto(alpha, 255, where=mask)

    def _base(self, piece: Cloth, rows: slice, columns: slice) -> Pixels:
        fabric = self.fabric
        main = _column(fabric.colour)
        if piece.fill == INSIDE:
            main = main * 0.62 + 10
        if fabric.second is None or piece.fill != FABRIC:
            return main
        second = _column(fabric.second)
        if fabric.pattern == "colour-blocked":
            y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
            share = (y > fabric.block_y * self.scale + self.origin[1]).astype(np.float32)
        else:
            field = second_colour_field(
                fabric.pattern, round(piece.angle / 4) * 4, fabric.scale, self.height, self.width
            )
            share = field[rows, columns] * np.float32(1 / 255)
        return np.asarray(main + share * (second - main))

    def _shade(self, piece: Cloth, soft: Pixels, rows: slice, columns: slice) -> Pixels:
        """Return lightness, 1 being the colour as it is: rounding, folds and grain."""
        step = max(1, round(0.008 * self.height))
        light = np.zeros_like(soft)  # lit from the upper left: the slope of the blurred outline
        light[step:-step, step:-step] = (
            soft[2 * step :, 2 * step :] - soft[: -2 * step, : -2 * step]
        )
        edge = np.clip(2 * soft - 1, 0, 1)
        shade = 0.84 + 0.17 * edge * (2 - edge) + 0.16 * light
        shade = 1 + (shade - 1) * piece.depth
        if piece.folds != "none":
            variant = (self.fabric.folds + len(piece.outline)) % FOLD_VARIANTS
            strength = 0.085 if piece.folds == "hanging" else 0.05
            shade += (
                strength * fold_field(piece.folds, variant, self.height, self.width)[rows, columns]
            )
        if piece.pleats:
            shade += self._pleats(piece, rows, columns)
        grain = 0.05 if self.fabric.weave != "plain" else 0.02
        shade += grain * weave_field(self.fabric.weave, self.height, self.width)[rows, columns]
        return np.asarray(shade * piece.tone, dtype=np.float32)

    def _pleats(self, piece: Cloth, rows: slice, columns: slice) -> Pixels:
        """Knife pleats that widen with the outline from its top to its bottom."""
        y = (np.arange(rows.start, rows.stop, dtype=np.float32) - self.origin[1]) / self.scale
        x = (np.arange(columns.start, columns.stop, dtype=np.float32) - self.origin[0]) / self.scale
        right = piece.outline[: len(piece.outline) // 2]
        order = np.argsort(right[:, 1], kind="stable")
        half = np.interp(y, right[order, 1], np.maximum(right[order, 0], 1.0))
        u = (x[None, :] / half[:, None].astype(np.float32) + 1) / 2 * piece.pleats
        saw = u % 1.0
        return np.asarray(0.10 - 0.30 * saw**2.2, dtype=np.float32)

    def _stroke(self, stroke: Stroke) -> None:
        pixels = max(1, round(stroke.width * self.scale))
        rows, columns, local = self._window(stroke.points, pixels + 2)
        image = Image.new("L", (columns.stop - columns.start, rows.stop - rows.start), 0)
        draw = ImageDraw.Draw(image)
        if stroke.dashed:
            for dash in _dashes(local, 1.6 * self.scale):
                draw.line(dash, fill=255, width=pixels)
        else:
            draw.line(local.ravel().tolist(), fill=255, width=pixels, joint="curve")
        mask = _shares(image)
        if stroke.colour is None:
            self._darken(rows, columns, mask, stroke.strength)
        else:
            self._blend(rows, columns, mask, stroke.colour)
            alpha = self.alpha[rows, columns]
            np.maximum(alpha, np.asarray(image), out=alpha)

    def _ribs(self, ribs: Ribs) -> None:
        count = ribs.count
        shares = np.arange(1, count + 1) / (count + 1)
        ends = np.concatenate([_along(ribs.first, shares), _along(ribs.second, shares)])
        rows, columns, local = self._window(ends, 3)
        image = Image.new("L", (columns.stop - columns.start, rows.stop - rows.start), 0)
        draw = ImageDraw.Draw(image)
        width = max(1, round(0.3 * self.scale))
        for rib in np.concatenate([local[:count], local[count:]], axis=1).tolist():
            draw.line(rib, fill=255, width=width)
        self._darken(rows, columns, _shares(image), 0.16)

    def _darken(self, rows: slice, columns: slice, mask: Pixels, strength: float) -> None:
        """Darken what `mask` covers; on black, where that would not show, lighten it."""
        under = self.rgb[:, rows, columns]
        sign = 1.0 if np.mean(self.fabric.colour) < 60 else -1.0
        under += (sign * strength) * (under * 0.8 + 42) * mask

    def _button(self, button: Button) -> None:
        pixels = max(button.radius * self.scale, 0.011 * self.height)
        radius = pixels / self.scale
        centre = np.array([[button.x, button.y]])
        rows, columns, local = self._window(
            np.concatenate([centre - radius, centre + radius]), 0.4 * pixels + 2
        )
        (x0, y0), (x1, y1) = local.tolist()
        image = Image.new("L", (columns.stop - columns.start, rows.stop - rows.start), 0)
        draw = ImageDraw.Draw(image)
        drop = 0.22 * pixels
        draw.ellipse([x0 + drop, y0 + drop, x1 + drop, y1 + drop], fill=110)
        self._blend(rows, columns, _shares(image), (20, 18, 18))
        image = Image.new("L", image.size, 0)
        draw = ImageDraw.Draw(image)
        draw.ellipse([x0, y0, x1, y1], fill=255)
        self._blend(rows, columns, _shares(image), self.button_rgb)
        rim = tuple(int(0.7 * v + 20) for v in self.button_rgb)
        image = Image.new("L", image.size, 0)
        draw = ImageDraw.Draw(image)
        draw.ellipse([x0, y0, x1, y1], outline=255)
        middle = ((x0 + x1) / 2, (y0 + y1) / 2)
        hole = max(0.6, 0.14 * pixels)
        for dx in (-0.3, 0.3):
            x, y = middle[0] + dx * pixels, middle[1]
            draw.ellipse([x - hole, y - hole, x + hole, y + hole], fill=255)
        self._blend(rows, columns, _shares(image), (rim[0], rim[1], rim[2]))


def _shares(image: Image.Image) -> Pixels:
    """Return a greyscale picture as shares 0..1, [H, W]."""
    return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


def _column(colour: RGB) -> Pixels:
    """Return a colour that broadcasts over [3, H, W]."""
    return np.array(colour, dtype=np.float32)[:, None, None]


def _along(points: Points, shares: Points) -> Points:
    """Return the points at `shares` [N] of a polyline's points, [N, 2]."""
    at = shares * (len(points) - 1)
    steps = np.arange(len(points))
    return np.stack([np.interp(at, steps, points[:, i]) for i in (0, 1)], axis=1)


def _dashes(points: Points, length: float) -> list[list[float]]:
    """Cut a polyline into dashes of `length` with gaps of two thirds of it: x0, y0, x1, y1 each."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    starts = np.arange(0.0, travelled[-1], length * 5 / 3)
    ends = np.minimum(starts + length, travelled[-1])
    columns = [np.interp(at, travelled, points[:, i]) for at in (starts, ends) for i in (0, 1)]
    return [[float(value) for value in dash] for dash in zip(*columns, strict=True)]
