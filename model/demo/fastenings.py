"""What closes a garment: buttons, zips, cords and belts."""

from __future__ import annotations

import numpy as np

from model.demo.pieces import (
    LINING,
    MAIN,
    METAL,
    Button,
    Cloth,
    Piece,
    Stroke,
    bezier,
    both_sides,
    flip,
    line,
    mirrored,
    spline,
)


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


def placket(top: float, bottom: float, fill: str, half: float = 2.2) -> list[Piece]:
    """Return the strip of cloth that buttons sit on."""
    strip = line((0, top), (half, top), (half, bottom), (0, bottom))
    return [Cloth(mirrored(strip), fill, folds="none", depth=0.35)]


def zipper(top: float, bottom: float) -> list[Piece]:
    """Return a metal zip with its tape and its pull."""
    return [
        Stroke(line((0, top), (0, bottom)), 3.6, strength=0.4),
        Stroke(line((0, top), (0, bottom)), 1.7, colour=METAL),
        Stroke(line((0, top), (0, bottom)), 1.0, colour=(96, 98, 104), dashed=True),
        Stroke(line((0.0, top + 0.5), (0.4, top + 5.5)), 1.9, colour=(222, 222, 226)),
    ]


def belt(half: float, y: float, height: float = 4.6) -> list[Piece]:
    """Return a tied belt with a bow's loops and hanging ends."""
    strip = line((0, y), (half + 0.4, y - 0.3), (half + 0.4, y + height - 0.3), (0, y + height))
    mid = y + height / 2
    loop = spline([(0, mid), (4.5, mid - 2.8), (9.6, mid - 2.0), (9.4, mid + 2.6), (0, mid + 0.8)])
    crease = bezier((1.5, mid), (5.0, mid - 0.4), (7.0, mid + 0.6), n=6)
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
        *both_sides(Cloth(loop, MAIN, folds="none", depth=0.6, tone=0.98)),
        Stroke(crease, 0.6, 0.2),
        Stroke(flip(crease), 0.6, 0.2),
        Cloth(mirrored(knot), MAIN, folds="none", depth=0.9, tone=0.9),
    ]
