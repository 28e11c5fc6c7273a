"""What a garment is cut from. Lengths are centimetres: x from the centre line, y downwards.

The tailor (`tailor.py`) lays pieces on top of each other in order; the canvas paints them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""[N, 2] points (x, y) in centimetres."""

FABRIC, MAIN, INSIDE = "fabric", "main", "inside"
"""How a piece is coloured: with the garment's pattern; its main colour only; its dim inside."""


LINING = (238, 233, 222)
METAL = (186, 188, 192)
"""Colours of labels and cords, and of zips."""


@dataclass(frozen=True, slots=True)
class Cloth:
    """A flat piece of fabric with a closed outline."""

    outline: Points
    fill: str = FABRIC
    angle: float = 0.0
    """By how many degrees the pattern is turned, as on a sleeve."""
    folds: str = "soft"
    """`soft`, `hanging` (long vertical folds) or `none`."""
    depth: float = 1.0
    """How strongly the piece rounds off towards its edges, and throws a shadow on what is below."""
    tone: float = 1.0
    """Lightness, as a factor."""
    pleats: int = 0


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line: a seam, a stitched edge, a drawstring. `colour` None darkens the cloth below."""

    points: Points
    width: float = 0.35
    strength: float = 0.3
    colour: tuple[int, int, int] | None = None
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Ribs:
    """Fine lines across a knitted band, between two edges of equal length."""

    first: Points
    second: Points
    count: int


@dataclass(frozen=True, slots=True)
class Button:
    """A round button."""

    x: float
    y: float
    radius: float = 1.1


Piece = Cloth | Stroke | Ribs | Button


def bezier(
    start: tuple[float, float], control: tuple[float, float], end: tuple[float, float], n: int = 14
) -> Points:
    """Return a quadratic Bézier curve as `n` points."""
    t = np.linspace(0.0, 1.0, n)[:, None]
    a, b, c = np.array(start), np.array(control), np.array(end)
    return np.asarray((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c)


def spline(points: list[tuple[float, float]], n: int = 8) -> Points:
    """Return a Catmull-Rom spline through `points`, `n` steps between two of them."""
    p = np.array([points[0], *points, points[-1]], dtype=np.float64)
    t = np.linspace(0.0, 1.0, n, endpoint=False)[:, None]
    parts = []
    for i in range(1, len(p) - 2):
        a, b, c, d = p[i - 1], p[i], p[i + 1], p[i + 2]
        parts.append(
            0.5
            * (
                2 * b
                + (c - a) * t
                + (2 * a - 5 * b + 4 * c - d) * t**2
                + (3 * b - a - 3 * c + d) * t**3
            )
        )
    parts.append(p[-1:])
    return np.concatenate(parts)


def line(*points: tuple[float, float]) -> Points:
    """Return straight lines through `points`."""
    return np.array(points, dtype=np.float64)


def flip(points: Points) -> Points:
    """Return the mirror image across the centre line, in reverse order."""
    return np.asarray(points[::-1] * np.array([-1.0, 1.0]))


def mirrored(right: Points) -> Points:
    """Close a half outline (top centre → right side → bottom centre) with its mirror image."""
    return np.concatenate([right, flip(right)])


def both_sides(piece: Cloth) -> list[Piece]:
    """Return a right piece and its left twin."""
    twin = Cloth(
        flip(piece.outline), piece.fill, -piece.angle, piece.folds, piece.depth, piece.tone
    )
    return [twin, piece]
