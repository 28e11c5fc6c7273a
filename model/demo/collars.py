"""Cuts collars, hoods and bows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from model.demo.bodies import neck_curve
from model.demo.pieces import (
    INSIDE,
    Cloth,
    Piece,
    Ribs,
    Stroke,
    bezier,
    both_sides,
    flip,
    line,
    mirrored,
    spline,
)


def _pointed_collar() -> list[Piece]:
    """A shirt's collar."""
    leaf = np.concatenate(
        [
            bezier((0.3, 10.0), (5.5, 6.5), (7.0, -1.5), n=10),
            line((8.8, 0.2), (12.2, 9.5), (8.0, 13.5)),
        ]
    )
    fall = line((0, -2.2), (7.0, -1.8), (8.4, 0.6), (5.0, 2.6), (0, 3.2))
    return [
        Cloth(mirrored(fall), folds="none", depth=0.5, tone=0.92),
        *both_sides(Cloth(leaf, folds="none", depth=0.7, angle=24.0)),
    ]


def _stand_collar() -> list[Piece]:
    """A band that stands up, open at the front."""
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


def _roll_neck() -> list[Piece]:
    """A ribbed tube, folded over."""
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


def _lapels() -> list[Piece]:
    """Notched lapels down to the first button."""
    leaf = np.concatenate(
        [
            line((0.4, 36.0), (8.6, -1.0), (10.2, 0.5)),
            line((15.2, 11.5), (11.8, 13.8), (15.8, 16.0)),
            bezier((15.8, 16.0), (11.0, 29.0), (0.4, 37.0), n=8),
        ]
    )
    fall = line((0, -3.0), (7.6, -2.4), (9.2, 0.6), (5.5, 2.8), (0, 3.2))
    seam = line((11.8, 13.8), (6.4, 9.4))
    return [
        Cloth(mirrored(fall), folds="none", depth=0.5, tone=0.92),
        *both_sides(Cloth(leaf, folds="none", depth=0.7, angle=16.0)),
        Stroke(seam, strength=0.3),
        Stroke(flip(seam), strength=0.3),
    ]


def _off_the_shoulder() -> list[Piece]:
    """A frill along the neckline."""
    top = neck_curve("off-the-shoulder")
    x = np.linspace(0.0, 25.5, 40)
    frill = np.stack([x, 24.5 - 0.0065 * x**2 + 0.9 * np.cos(x * 1.55)], axis=1)
    end = line((25.5, 17.0), (23.0, 10.4))
    half = np.concatenate([top, end[::-1], frill[::-1]])
    folds: list[Piece] = []
    for n in range(7):
        start = (1.6 + 3.4 * n, 14.6 - 0.011 * (1.6 + 3.4 * n) ** 2)
        fold = line(start, (start[0] * 1.13, start[1] + 6.5))
        folds += [Stroke(fold, 0.4, 0.15), Stroke(flip(fold), 0.4, 0.15)]
    return [Cloth(mirrored(half), folds="none", depth=0.9), *folds]


def _pussy_bow() -> list[Piece]:
    """A band tied in a bow."""
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


_COLLARS: dict[str, Callable[[], list[Piece]]] = {
    "pointed collar": _pointed_collar,
    "stand collar": _stand_collar,
    "roll neck": _roll_neck,
    "lapels": _lapels,
    "off-the-shoulder": _off_the_shoulder,
    "pussy bow": _pussy_bow,
}


def collar(neckline: str) -> list[Piece]:
    """Return what lies on top of the front at the neck; many necklines have nothing."""
    return _COLLARS[neckline]() if neckline in _COLLARS else []


def hood_back() -> list[Piece]:
    """Return a hood's outside, which lies behind the front."""
    half = spline(
        [
            (0, -25.0),
            (5.0, -24.3),
            (10.5, -21.0),
            (14.5, -14.0),
            (15.5, -5.0),
            (14.5, 3.0),
            (10.0, 8.0),
            (0, 10.0),
        ]
    )
    return [Cloth(mirrored(half), folds="none", depth=1.1)]


def hood_front() -> list[Piece]:
    """Return a hood's opening and its drawstrings."""
    opening = spline(
        [
            (0, -19.5),
            (3.0, -19.1),
            (6.6, -16.5),
            (9.2, -10.0),
            (9.8, -2.0),
            (8.0, 5.0),
            (3.5, 10.0),
            (0, 11.5),
        ]
    )
    rim = spline(
        [
            (0, -21.5),
            (3.6, -21.0),
            (8.2, -18.0),
            (11.2, -11.0),
            (11.8, -1.5),
            (9.6, 6.5),
            (4.2, 12.0),
            (0, 13.5),
        ]
    )
    edge = Stroke(mirrored(rim), strength=0.18)
    return [Cloth(mirrored(opening), INSIDE, folds="none", depth=1.0), edge]
