"""Cuts what is worn below the waist: skirts and trouser legs. y = `top` at the waist seam."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.demo.pieces import (
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

STITCH = (214, 160, 84)


def skirt(waist: float, hem: float, length: float, top: float, *, pleats: int = 0) -> list[Piece]:
    """Return a skirt's cloth, from half width `waist` to `hem` over `length`."""
    reach = hem - waist
    side = spline(
        [
            (waist, top),
            (waist + 0.34 * reach, top + 0.24 * length),
            (waist + 0.66 * reach, top + 0.60 * length),
            (hem, top + length),
        ]
    )
    bottom = bezier((hem, top + length), (hem * 0.6, top + length + 2.6), (0, top + length + 2.6))
    half = np.concatenate([line((0, top)), side, bottom[1:]])
    pieces: list[Piece] = [Cloth(mirrored(half), folds="hanging", pleats=pleats)]
    edge = bottom - np.array([0.0, 2.4])
    if not pleats:
        pieces.append(Stroke(np.concatenate([flip(edge[::-1]), edge[::-1]]), strength=0.14))
    return pieces


def waistband(
    half: float, top: float, height: float = 4.0, *, gathered: bool = False
) -> list[Piece]:
    """Return a waistband whose lower edge is at `top`."""
    upper = half - 0.5
    strip = np.concatenate(
        [
            bezier(
                (0, top - height + 0.9), (upper * 0.6, top - height + 0.9), (upper, top - height)
            ),
            bezier((half + 0.2, top + 0.2), (half * 0.6, top + 1.1), (0, top + 1.1)),
        ]
    )
    pieces: list[Piece] = [Cloth(mirrored(strip), folds="none", depth=0.6, tone=0.96)]
    if gathered:
        pieces.append(
            Ribs(
                line((-upper, top - height), (upper, top - height)),
                line((-half, top), (half, top)),
                30,
            )
        )
    return pieces


@dataclass(frozen=True, slots=True)
class Leg:
    """The measures of a leg: hips, outer and inner half widths at the hem, its length."""

    waist: float = 18.0
    hip: float = 24.0
    outer: float = 25.0
    inner: float = 4.5
    length: float = 102.0
    rise: float = 27.0


def leg_outline(leg: Leg, top: float) -> Points:
    """Return the right leg's closed outline."""
    bottom = top + leg.length
    crotch = top + leg.rise
    knee = max(crotch + 6, top + leg.length * 0.62)
    side = spline(
        [
            (leg.waist, top),
            (leg.hip, top + leg.rise * 0.75),
            (leg.hip + 0.45 * (leg.outer - leg.hip), knee),
            (leg.outer, bottom),
        ]
    )
    inseam = spline(
        [(leg.inner, bottom), (0.55 * leg.inner + 0.3, (crotch + bottom) / 2), (0.15, crotch)]
    )
    hem = bezier(
        (leg.outer, bottom), ((leg.outer + leg.inner) / 2, bottom + 1.6), (leg.inner, bottom), n=8
    )
    return np.concatenate([line((-0.05, top)), side, hem, inseam, line((-0.05, crotch))])


def legs(leg: Leg, top: float, *, crease: bool = False, turn_up: bool = False) -> list[Piece]:
    """Return both legs, with creases or turned-up hems."""
    outline = leg_outline(leg, top)
    bottom = top + leg.length
    pieces: list[Piece] = [
        Cloth(flip(outline), folds="hanging", angle=2.0),
        Cloth(outline, folds="hanging", angle=-2.0),
        Stroke(line((0, top), (0, top + leg.rise)), 0.5, 0.3),
    ]
    middle = (leg.outer + leg.inner) / 2
    if crease:
        fold = spline(
            [(leg.waist * 0.55, top + 2), (leg.hip * 0.52, top + leg.rise), (middle, bottom)]
        )
        pieces += [Stroke(fold, 0.5, 0.13), Stroke(flip(fold), 0.5, 0.13)]
    height = 3.4 if turn_up else 2.2
    edge = line(
        (leg.outer - 0.2, bottom - height),
        (middle, bottom - height + 1.2),
        (leg.inner, bottom - height),
    )
    if turn_up:
        cuff = np.concatenate(
            [
                edge,
                line((leg.inner - 0.4, bottom), (middle, bottom + 1.4), (leg.outer + 0.4, bottom)),
            ]
        )
        pieces += [
            Cloth(flip(cuff), folds="none", depth=0.6, tone=1.05),
            Cloth(cuff, folds="none", depth=0.6, tone=1.05),
        ]
    else:
        pieces += [Stroke(edge, strength=0.2), Stroke(flip(edge), strength=0.2)]
    return pieces


def slant_pockets(leg: Leg, top: float) -> list[Piece]:
    """Return two slanting pocket openings."""
    cut = bezier(
        (leg.waist * 0.62, top + 0.5), (leg.waist * 0.80, top + 8), (leg.hip - 1.6, top + 14)
    )
    return [Stroke(cut, 0.55, 0.3), Stroke(flip(cut), 0.55, 0.3)]


def jeans_details(leg: Leg, top: float, *, button: bool) -> list[Piece]:
    """Return the stitching, belt loops, fly and front pockets of a pair of jeans."""
    pieces: list[Piece] = []
    pocket = bezier(
        (leg.waist * 0.42, top + 0.8), (leg.waist * 0.46, top + 8.5), (leg.hip - 2.4, top + 9.5)
    )
    fly = bezier((4.0, top + 0.8), (4.2, top + 14), (0.3, top + 18))
    side = spline(
        [
            (leg.waist - 0.9, top + 1),
            (leg.hip - 1.1, top + leg.rise * 0.75),
            (leg.outer - 1.1, top + leg.length),
        ]
    )
    for curve in (pocket, flip(pocket), fly, side, flip(side)):
        pieces.append(Stroke(curve, 0.45, colour=STITCH, dashed=True))
    pieces.append(Stroke(pocket + np.array([0.0, -0.7]), 0.5, 0.34))
    pieces.append(Stroke(flip(pocket) + np.array([0.0, -0.7]), 0.5, 0.34))
    for x in (-leg.waist * 0.72, -leg.waist * 0.30, leg.waist * 0.30, leg.waist * 0.72):
        loop = line(
            (x - 0.8, top - 4.2), (x + 0.8, top - 4.2), (x + 0.8, top + 1.2), (x - 0.8, top + 1.2)
        )
        pieces.append(Cloth(loop, MAIN, folds="none", depth=0.5, tone=0.96))
    if button:
        pieces += [Button(0, y, 1.4) for y in (top - 1.6, top + 5.0, top + 10.0, top + 15.0)]
    else:
        pieces.append(Button(0, top - 1.6, 1.4))
        pieces.append(Stroke(line((0, top + 1.5), (0, top + 16.5)), 2.2, strength=0.34))
        pieces.append(Stroke(line((0, top + 1.5), (0, top + 16.5)), 1.1, colour=(190, 192, 196)))
    return pieces


def patch_pocket(x: float, y: float, width: float, height: float) -> list[Piece]:
    """Return one patch pocket with its top inner corner at (x, y)."""
    outline = line(
        (x, y),
        (x + width, y),
        (x + width, y + height - 1.5),
        (x + width / 2, y + height + 0.6),
        (x, y + height - 1.5),
    )
    lip = line((x, y + 2.2), (x + width, y + 2.2))
    return [Cloth(outline, folds="none", depth=0.45), Stroke(lip, strength=0.2)]
