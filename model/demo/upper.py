"""Cuts what is worn above the waist: bodies, sleeves, necklines, collars and hoods.

The shoulder seam meets the neck at y = 0; measures are those of a garment laid flat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.demo.pieces import (
    INSIDE,
    MAIN,
    Button,
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

LINING = (238, 233, 222)
METAL = (186, 188, 192)


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
        straps: list[Piece] = []
        for side in (-1.0, 1.0):
            straps.append(Stroke(line((side * 9.5, 0.0), (side * 10.5, 20.0)), 1.3, colour=None))
        low = line((0, 19.0), (body.chest - 3, 19.0), (body.chest - 4, 26.0), (0, 34.0))
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
        label = line((0, 3.2), (2.0, 3.2), (2.0, 5.2), (0, 5.2))
        pieces.append(Stroke(mirrored(label)[[1, 6, 5, 2]], 0.3, colour=LINING))
        pieces.append(Stroke(line((-1.9, 4.2), (1.9, 4.2)), 2.0, colour=LINING))
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
    side = spline(
        [
            (ax, ay),
            (body.waist + 0.35 * (ax - body.waist), (ay + body.waist_y) / 2),
            (body.waist, body.waist_y),
            (
                body.waist + 0.55 * (body.hem - body.waist),
                body.waist_y + 0.45 * (body.hem_y - body.waist_y),
            ),
            (body.hem, body.hem_y),
        ]
        if body.hem_y > body.waist_y + 8
        else [(ax, ay), (body.hem, body.hem_y)]
    )
    return np.concatenate([neck, armhole, side, hem_curve(body)[1:]])


def hem_curve(body: Body) -> Points:
    """Return the hem from the right side to the centre."""
    x, y = body.hem, body.hem_y
    if body.hem_drop < 0:  # a shirt's tails: high at the sides
        return spline([(x, y + body.hem_drop), (x * 0.8, y - 1.5), (x * 0.45, y + 1), (0, y + 1.2)])
    return bezier((x, y), (x * 0.6, y + body.hem_drop), (0, y + body.hem_drop), n=10)


SLEEVE_SHARES = {"cap": 0.20, "short": 0.36, "puff": 0.34, "three-quarter": 0.70, "long": 1.0}
SLEEVE_LIFTS = {"cap": 24.0, "short": 15.0, "puff": 14.0, "three-quarter": 9.0, "long": 4.0}


@dataclass(frozen=True, slots=True)
class Sleeve:
    """A right sleeve: its outer and inner edges (shoulder → cuff) and the arm's direction."""

    outer: Points
    inner: Points
    angle: float

    @property
    def outline(self) -> Points:
        """The closed outline."""
        cuff = bezier(
            (float(self.outer[-1, 0]), float(self.outer[-1, 1])),
            tuple((self.outer[-1] + self.inner[-1]) / 2 + np.array([0.3, 0.9])),
            (float(self.inner[-1, 0]), float(self.inner[-1, 1])),
            n=8,
        )
        return np.concatenate([self.outer, cuff, self.inner[::-1]])

    def band(self, start: float, end: float) -> tuple[Points, Points, Points]:
        """Return a band across the sleeve, from share to share: outline, upper and lower edge."""
        n = len(self.outer) - 1
        a, b = round(start * n), round(end * n)
        upper, lower = (
            line_between(self.outer[a], self.inner[a]),
            line_between(self.outer[b], self.inner[b]),
        )
        return (
            np.concatenate([self.outer[a : b + 1], self.inner[a : b + 1][::-1]]),
            upper,
            lower,
        )


def line_between(start: Points, end: Points) -> Points:
    """Return a straight line between two points [2], as points [2, 2]."""
    return np.stack([start, end])


def make_sleeve(body: Body, kind: str, spread: float, low: bool = False) -> Sleeve:
    """Cut a right sleeve; `spread` lifts the arm (degrees), `low` starts it below the shoulder."""
    sx, sy = body.shoulder_point
    ax, ay = body.armpit
    if low:
        sx, sy = 22.5, 11.0
    dx = body.shoulder - 20.0
    outer = spline(
        [
            (sx, sy),
            (26.0 + dx, 11.0 if not low else 15.0),
            (30.5 + dx, 25),
            (32.5 + dx, 43),
            (33.0 + dx, 62),
        ]
    )
    inner = spline([(ax, ay), (25.2 + dx, 33), (25.0 + dx, 47), (24.0 + dx, 64)])
    share = SLEEVE_SHARES[kind]
    grid = np.linspace(0, 1, 31)
    outer = _resample(outer, grid * share)
    inner_share = max((share - 0.27) / 0.73, 0.03)
    inner = _resample(inner, grid * inner_share)
    if kind == "puff":
        bulge = np.sin(grid * np.pi)[:, None] ** 0.7
        outer = outer + bulge * np.array([5.0, -2.5])
        inner = inner + bulge * np.array([0.5, 1.5])
    turn = np.radians(-(SLEEVE_LIFTS[kind] + spread))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    pivot = np.array([ax - 2.0, ay - 8.0])
    weight = np.linspace(0, 1, 31)[:, None] ** 0.6  # the sleeve stays sewn to the armhole
    lifted = [
        edge + weight * ((edge - pivot) @ rotation.T + pivot - edge) for edge in (outer, inner)
    ]
    middle = (lifted[0] + lifted[1]) / 2
    along = middle[-1] - middle[0]
    angle = float(np.degrees(np.arctan2(along[0], along[1])))
    return Sleeve(lifted[0], lifted[1], -angle)


def _resample(points: Points, shares: Points) -> Points:
    steps = np.hypot(*np.diff(points, axis=0).T)
    travelled = np.concatenate([[0.0], np.cumsum(steps)]) / steps.sum()
    return np.stack([np.interp(shares, travelled, points[:, i]) for i in (0, 1)], axis=1)


def both_sides(piece: Cloth) -> list[Piece]:
    """Return a right piece and its left twin."""
    twin = Cloth(
        flip(piece.outline), piece.fill, -piece.angle, piece.folds, piece.depth, piece.tone
    )
    return [twin, piece]


def sleeves(body: Body, kind: str, spread: float, *, cuffs: str, low: bool = False) -> list[Piece]:
    """Return both sleeves. `cuffs`: `ribbed`, `buttoned`, `stitched` or `gathered`."""
    sleeve = make_sleeve(body, kind, spread, low)
    pieces = both_sides(Cloth(sleeve.outline, angle=sleeve.angle, folds="soft"))
    short = kind in ("cap", "short", "puff")
    start = 0.86 if short else 0.91
    outline, upper, lower = sleeve.band(start, 1.0)
    if kind == "puff":
        cuffs = "gathered"
    if cuffs in ("ribbed", "buttoned", "gathered"):
        tone = 0.93 if cuffs == "ribbed" else 0.97
        pieces += both_sides(
            Cloth(outline, angle=sleeve.angle, folds="none", depth=0.55, tone=tone)
        )
    if cuffs == "ribbed":
        pieces += [Ribs(upper, lower, 7), Ribs(flip(upper)[::-1], flip(lower)[::-1], 7)]
    elif cuffs == "gathered":
        n = len(sleeve.outer) - 1
        first = line_between(sleeve.outer[round(0.6 * n)], sleeve.inner[round(0.6 * n)])
        pieces += [Ribs(upper, first, 5), Ribs(flip(upper)[::-1], flip(first)[::-1], 5)]
    elif cuffs == "stitched":
        pieces += [Stroke(upper, strength=0.16), Stroke(flip(upper), strength=0.16)]
    return pieces


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
    """Return the bound or ribbed edge along the neckline."""
    curve = neck_curve(neckline, strappy)
    if neckline in ("lapels", "pointed collar", "hood", "stand collar", "pussy bow"):
        return []
    out = curve + (curve - np.array([0.0, curve[0, 1] - 16])) * 0.0
    normal = np.stack([np.gradient(curve[:, 1]), -np.gradient(curve[:, 0])], axis=1)
    norm = np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-6)[:, None]
    out = curve - width * normal / norm * -1.0
    if out[0, 1] < curve[0, 1]:
        out = curve + width * normal / norm * -1.0
    out[0, 0] = 0.0
    full = np.concatenate([flip(curve)[:-1], curve])
    outer = np.concatenate([flip(out)[:-1], out])
    return [Stroke(outer, strength=0.22), Stroke(full, width=0.5, strength=0.12)]


def collar(kind: str) -> list[Piece]:
    """Return a collar, hood or bow, which lies on top of the front."""
    if kind == "pointed collar":
        leaf = np.concatenate(
            [
                bezier((0.3, 10.0), (5.5, 6.5), (7.0, -1.5), n=10),
                line((8.8, 0.2), (12.2, 9.5), (8.0, 13.5)),
            ]
        )
        fall = line((0, -2.2), (7.0, -1.8), (8.0, 0.3), (0, 1.2))
        return [
            Cloth(mirrored(fall), folds="none", depth=0.5, tone=0.92),
            *both_sides(Cloth(leaf, folds="none", depth=0.7, angle=24.0)),
        ]
    if kind == "stand collar":
        half = np.concatenate(
            [
                bezier((0, -1.6), (6, -1.8), (7.6, -3.6), n=8),
                bezier((8.4, 0.0), (8.0, 7.0), (0.2, 9.0), n=12),
            ]
        )
        inner = np.concatenate(
            [
                bezier((0, -1.6), (6, -1.8), (7.6, -3.6), n=8),
                bezier((7.3, -2.0), (6.8, 3.2), (0.0, 4.8), n=12),
            ]
        )
        return [
            Cloth(mirrored(half), folds="none", depth=0.7),
            Cloth(mirrored(inner), INSIDE, folds="none", depth=0.4),
        ]
    if kind == "roll neck":
        half = np.concatenate(
            [
                line((0, -8.6), (6.6, -8.2), (7.6, -7.0)),
                bezier((7.8, -6.5), (8.2, -2.0), (9.4, 1.0), n=6),
                bezier((9.4, 1.5), (7.5, 6.8), (0, 7.6), n=10),
            ]
        )
        fold = bezier((0, 0.6), (6.5, 0.4), (8.6, -2.4))
        return [
            Cloth(mirrored(half), folds="none", depth=0.9),
            Ribs(line((-6.8, -8.2), (6.8, -8.2)), line((-8.6, 3.5), (8.6, 3.5)), 13),
            Stroke(np.concatenate([flip(fold), fold]), 0.5, 0.25),
        ]
    if kind == "lapels":
        leaf = np.concatenate(
            [
                line((0.4, 36.0), (8.6, -1.0), (10.2, 0.5)),
                line((15.2, 11.5), (11.8, 13.8), (15.8, 16.0)),
                bezier((15.8, 16.0), (11.0, 29.0), (0.4, 37.0), n=8),
            ]
        )
        fall = line((0, -3.0), (7.6, -2.4), (8.9, 0.2), (0, 1.6))
        seam = line((11.8, 13.8), (6.4, 9.4))
        return [
            Cloth(mirrored(fall), folds="none", depth=0.5, tone=0.92),
            *both_sides(Cloth(leaf, folds="none", depth=0.7, angle=16.0)),
            Stroke(seam, strength=0.3),
            Stroke(flip(seam), strength=0.3),
        ]
    if kind == "pussy bow":
        band = np.concatenate(
            [
                bezier((0, 8.0), (7.2, 4.0), (7.6, -2.0), n=8),
                bezier((9.4, -1.0), (9.6, 6.0), (0, 11.0), n=8),
            ]
        )
        loop = spline([(0, 10.0), (5, 5.5), (11.5, 6.0), (12, 11.5), (6, 13.0), (0, 11.5)])
        tail = spline([(0, 11.0), (4.0, 19.0), (6.5, 30.0), (10.5, 29.0), (7.0, 18.0), (1.5, 11.0)])
        return [
            *both_sides(Cloth(band, folds="none", depth=0.6)),
            *both_sides(Cloth(tail, folds="soft", depth=0.8, angle=-16.0, tone=0.95)),
            *both_sides(Cloth(loop, folds="none", depth=0.9, angle=60.0)),
            Cloth(mirrored(line((0, 8.7), (1.9, 8.9), (1.9, 13.0), (0, 13.2))), depth=0.7),
        ]
    return []


def hood_back() -> list[Piece]:
    """Return a hood's outside, which lies behind the front."""
    half = spline(
        [(0, -25.0), (8.5, -24.0), (14.5, -15.0), (15.5, -5.0), (14.5, 3.0), (10.0, 8.0), (0, 10.0)]
    )
    return [Cloth(mirrored(half), folds="none", depth=1.1)]


def hood_front() -> list[Piece]:
    """Return a hood's opening and its drawstrings."""
    opening = spline(
        [(0, -19.5), (5.5, -18.0), (9.2, -10.0), (9.8, -2.0), (8.0, 5.0), (3.5, 10.0), (0, 11.5)]
    )
    rim = spline(
        [(0, -21.5), (7.0, -19.8), (11.2, -11.0), (11.8, -1.5), (9.6, 6.5), (4.2, 12.0), (0, 13.5)]
    )
    edge = Stroke(mirrored(rim), strength=0.18)
    return [Cloth(mirrored(opening), INSIDE, folds="none", depth=1.0), edge]


def drawstrings(top: float, length: float) -> list[Piece]:
    """Return two hanging cords."""
    cords: list[Piece] = []
    for side, drop in ((-1.0, length), (1.0, length - 2.0)):
        curve = bezier((side * 2.2, top), (side * 4.2, top + drop / 2), (side * 3.2, top + drop))
        cords.append(Stroke(curve + np.array([0.4, 0.5]), 0.9, strength=0.3))
        cords.append(Stroke(curve, 0.9, colour=LINING))
        cords.append(Stroke(curve[-2:], 1.3, colour=METAL))
    return cords


def buttons(top: float, bottom: float, spacing: float, x: float = 0.0) -> list[Piece]:
    """Return a row of buttons from `top` to at most `bottom`."""
    count = max(2, int((bottom - top) / spacing) + 1)
    return [Button(x, float(y)) for y in np.linspace(top, bottom, count)]


def placket(top: float, bottom: float, half: float = 1.8) -> list[Piece]:
    """Return the strip of cloth that buttons sit on."""
    strip = line((0, top), (half, top), (half, bottom), (0, bottom))
    return [Cloth(mirrored(strip), folds="none", depth=0.35)]


def zipper(top: float, bottom: float) -> list[Piece]:
    """Return a metal zip with its tape and its pull."""
    return [
        Stroke(line((0, top), (0, bottom)), 3.0, strength=0.34),
        Stroke(line((0, top), (0, bottom)), 1.3, colour=METAL),
        Stroke(line((0, top), (0, bottom)), 1.0, colour=(96, 98, 104), dashed=True),
        Stroke(line((0.0, top + 0.5), (0.4, top + 5.5)), 1.9, colour=(222, 222, 226)),
    ]


def belt(half: float, y: float, height: float = 4.6) -> list[Piece]:
    """Return a tied belt with a bow's loops and hanging ends."""
    strip = line((0, y), (half + 0.4, y - 0.3), (half + 0.4, y + height - 0.3), (0, y + height))
    mid = y + height / 2
    loop = spline([(0, mid), (4.0, mid - 4.4), (10.0, mid - 3.4), (9.5, mid + 1.8), (0, mid + 0.6)])
    tail = spline(
        [
            (0, mid),
            (3.6, mid + 9.0),
            (4.6, mid + 21.0),
            (8.4, mid + 20.0),
            (6.4, mid + 8.0),
            (1.5, mid),
        ]
    )
    knot = line((0, mid - 2.2), (2.2, mid - 2.0), (2.2, mid + 2.4), (0, mid + 2.6))
    return [
        Cloth(mirrored(strip), MAIN, folds="none", depth=0.9, tone=0.90),
        *both_sides(Cloth(tail, MAIN, folds="none", depth=0.9, tone=0.93)),
        *both_sides(Cloth(loop, MAIN, folds="none", depth=1.0, tone=0.96)),
        Cloth(mirrored(knot), MAIN, folds="none", depth=0.9, tone=0.9),
    ]
