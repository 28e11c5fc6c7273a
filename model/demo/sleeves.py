"""Cuts sleeves and their cuffs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.demo.bodies import Body
from model.demo.pieces import (
    Cloth,
    Piece,
    Points,
    Ribs,
    Stroke,
    bezier,
    both_sides,
    flip,
    line,
    spline,
)

SLEEVE_SHARES = {"cap": 0.20, "short": 0.36, "puff": 0.34, "three-quarter": 0.70, "long": 1.0}
SLEEVE_LIFTS = {"cap": 10.0, "short": 9.0, "puff": 12.0, "three-quarter": 9.0, "long": 4.0}


@dataclass(frozen=True, slots=True)
class Sleeve:
    """A right sleeve: its outer and inner edges (shoulder → cuff) and the arm's direction."""

    outer: Points
    inner: Points
    angle: float

    @property
    def outline(self) -> Points:
        """The closed outline, which reaches under the body."""
        cuff = bezier(
            (float(self.outer[-1, 0]), float(self.outer[-1, 1])),
            tuple((self.outer[-1] + self.inner[-1]) / 2 + np.array([0.3, 0.9])),
            (float(self.inner[-1, 0]), float(self.inner[-1, 1])),
            n=8,
        )
        under = line(tuple(self.inner[0] + (-6.0, -3.0)), tuple(self.outer[0] + (-6.0, 2.0)))
        return np.concatenate([self.outer, cuff, self.inner[::-1], under])

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
