"""Cuts bodies and necklines.

The shoulder seam meets the neck at y = 0; measures are those of a garment laid flat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.demo.pieces import (
    INSIDE,
    LINING,
    Cloth,
    Piece,
    Points,
    Ribs,
    Stroke,
    bezier,
    flip,
    line,
    mirrored,
    spline,
)


@dataclass(frozen=True, slots=True)
class Body:
    """The measures of a body, half widths from the centre line; y where it says so."""

    chest: float = 25.0
    waist: float = 24.0
    hem: float = 24.5
    hem_y: float = 64.0
    shoulder: float = 20.0
    waist_y: float = 40.0
    hem_drop: float = 1.5
    """How far the hem's middle hangs below its sides; negative for a shirt's rounded tails."""

    @property
    def armpit(self) -> tuple[float, float]:
        """Where sleeve and side seam meet."""
        return self.chest, 24.0

    @property
    def shoulder_point(self) -> tuple[float, float]:
        """Where sleeve and shoulder seam meet."""
        return self.shoulder, 4.5


NECK_MEASURES = {
    "crew neck": (8.8, 8.5),
    "scoop neck": (11.5, 18.0),
    "V-neck": (9.5, 22.0),
    "square neck": (11.5, 15.0),
    "boat neck": (15.0, 5.0),
    "off-the-shoulder": (22.5, 14.0),
    "roll neck": (8.2, 6.5),
    "pointed collar": (8.2, 10.0),
    "stand collar": (8.2, 8.0),
    "lapels": (9.0, 36.0),
    "hood": (9.5, 11.0),
    "pussy bow": (8.5, 9.0),
}
"""Half width at the shoulder seam and depth at the centre, centimetres."""


def neck_curve(neckline: str, strappy: bool = False) -> Points:
    """Return the front neckline from the centre to the right shoulder (or strap)."""
    width, depth = NECK_MEASURES[neckline]
    top = 13.0 if strappy else 0.0
    if neckline == "off-the-shoulder":
        return bezier((0, depth), (15, depth), (width, 11.0))
    if strappy:
        width, depth = 12.5, max(depth, 18.0) + (5.0 if neckline == "V-neck" else 0.0)
    if neckline in ("V-neck", "lapels"):
        return line((0, depth), (width, top))
    if neckline == "square neck":
        return line((0, depth), (width - 0.8, depth), (width, top))
    if neckline in ("pointed collar", "pussy bow"):
        return bezier((0, depth), (width * 0.8, depth * 0.5), (width, top))
    return bezier((0, depth), (width * 0.98, depth), (width, top), n=18)


def back(body: Body, neckline: str, strappy: bool = False) -> list[Piece]:
    """Return the inside of the back, which the front neckline leaves visible, with a label."""
    if strappy:
        low = line((0, 21.0), (11.0, 20.0), (body.chest - 1.5, 24.5), (body.chest - 3, 30), (0, 34))
        return [Cloth(mirrored(low), INSIDE, folds="none", depth=0.4)]
    front = neck_curve(neckline)
    width = float(front[-1, 0])
    if neckline == "off-the-shoulder":
        high = bezier((0, 10.0), (14, 10.0), (width, 11.0))
    else:
        high = bezier((0, 2.4), (width * 0.7, 2.2), (width, 0.0))
    low_front = front + np.array([1.5, 2.0])
    half = np.concatenate([high, low_front[::-1]])
    half[-1, 0] = 0.0
    pieces: list[Piece] = [Cloth(mirrored(half), INSIDE, folds="none", depth=0.5)]
    if neckline in ("crew neck", "scoop neck", "V-neck", "pointed collar", "lapels", "hood"):
        pieces.append(Stroke(line((-1.9, 5.0), (1.9, 5.0)), 2.0, colour=LINING))
    return pieces


def front_half(body: Body, neckline: str, sleeve: str) -> Points:
    """Return the right half of the front, from the neckline's centre to the hem's."""
    neck = neck_curve(neckline, sleeve == "strappy")
    ax, ay = body.armpit
    sx, sy = body.shoulder_point
    if sleeve == "strappy":
        armhole = bezier((12.5, 13.0), (14.0, 21.0), (ax, ay + 1), n=10)
    elif neckline == "off-the-shoulder":
        armhole = line((22.5, 11.0), (ax, ay))
    elif sleeve == "sleeveless":
        armhole = bezier((sx - 4.5, 3.0), (sx - 5.5, ay - 2), (ax, ay), n=12)
    else:
        armhole = bezier((sx, sy), (sx - 1.5, ay - 8), (ax, ay), n=12)
    corner = (body.hem, body.hem_y + min(body.hem_drop, 0.0))
    side = spline(
        [
            (ax, ay),
            (body.waist + 0.35 * (ax - body.waist), (ay + body.waist_y) / 2),
            (body.waist, body.waist_y),
            (
                body.waist + 0.55 * (body.hem - body.waist),
                body.waist_y + 0.45 * (body.hem_y - body.waist_y),
            ),
            corner,
        ]
        if body.hem_y > body.waist_y + 8
        else [(ax, ay), corner]
    )
    return np.concatenate([neck, armhole, side, hem_curve(body)[1:]])


def hem_curve(body: Body) -> Points:
    """Return the hem from the right side to the centre."""
    x, y = body.hem, body.hem_y
    if body.hem_drop < 0:  # a shirt's tails: high at the sides
        return spline([(x, y + body.hem_drop), (x * 0.8, y - 1.5), (x * 0.45, y + 1), (0, y + 1.2)])
    return bezier((x, y), (x * 0.6, y + body.hem_drop), (0, y + body.hem_drop), n=10)


def hem_band(body: Body, height: float) -> list[Piece]:
    """Return a ribbed band along the hem."""
    x, y, drop = body.hem, body.hem_y, body.hem_drop
    top = bezier((0, y - height + drop), (x * 0.6, y - height + drop), (x + 0.1, y - height))
    bottom = hem_curve(body)
    half = np.concatenate([top, bottom])
    upper = np.concatenate([flip(top)[:-1], top])
    lower = np.concatenate([flip(bottom[::-1])[:-1], bottom[::-1]])
    return [
        Cloth(mirrored(half), folds="none", depth=0.5, tone=0.95),
        Ribs(upper, lower, 34),
    ]


def neck_edge(neckline: str, strappy: bool, width: float = 1.9) -> list[Piece]:
    """Return the seams of the band along a collarless neckline."""
    if neckline in ("lapels", "pointed collar", "hood", "stand collar", "pussy bow"):
        return []
    edge = neck_curve(neckline, strappy)
    along = np.gradient(edge, axis=0)
    along /= np.maximum(np.hypot(along[:, :1], along[:, 1:]), 1e-6)
    seam = edge + width * np.stack([-along[:, 1], along[:, 0]], axis=1)
    seam[0] -= seam[0, 0] / along[0, 0] * along[0]  # a V's two sides meet on the centre line
    return [
        Stroke(np.concatenate([flip(seam)[:-1], seam]), strength=0.22),
        Stroke(np.concatenate([flip(edge)[:-1], edge]), width=0.5, strength=0.12),
    ]
