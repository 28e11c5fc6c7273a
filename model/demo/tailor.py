"""From a `Garment` to the pieces it is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from model.demo import bodies, collars, fastenings, lower, sleeves
from model.demo.attributes import Garment
from model.demo.bodies import Body
from model.demo.cuts import BODIES, COAT_LENGTHS, LEG_LENGTHS, SKIRT_LENGTHS, TOP_LENGTHS, Cut
from model.demo.pieces import (
    FABRIC,
    INSIDE,
    LINING,
    MAIN,
    METAL,
    Cloth,
    Piece,
    Points,
    Ribs,
    Stroke,
    bezier,
    both_sides,
    flip,
    line,
    mirrored,
)

KNITS = ("sweater", "cardigan")
RIBBED = ("sweater", "cardigan", "hoodie")


def cut_pieces(garment: Garment, cut: Cut) -> list[Piece]:
    """Return a garment's pieces, the lowest first."""
    kind = garment.product_type
    if kind in ("skirt", "pleated skirt"):
        pieces = _skirt(garment, cut)
    elif kind in ("trousers", "wide-leg trousers", "jeans", "shorts"):
        pieces = _trousers(garment, cut)
    else:
        pieces = _upper(garment, cut)
    return pieces


def _body(garment: Garment, cut: Cut) -> Body:
    kind = garment.product_type
    body = BODIES[kind]
    if kind == "coat":
        body = replace(body, hem_y=COAT_LENGTHS[garment.length])
    elif kind == "dress":
        length = SKIRT_LENGTHS[garment.length]
        body = replace(body, hem_y=44.0 + length)
    elif kind != "jumpsuit":
        body = replace(body, hem_y=body.hem_y + TOP_LENGTHS[garment.length])
    if garment.fastening == "tie belt" and kind in ("blazer", "coat", "cardigan", "blouse"):
        body = replace(body, waist=body.waist * 0.9)
    return replace(
        body, chest=body.chest * cut.width, waist=body.waist * cut.width, hem=body.hem * cut.width
    )


def _upper(garment: Garment, cut: Cut) -> list[Piece]:
    kind, neckline, sleeve = garment.product_type, garment.neckline, garment.sleeve
    body = _body(garment, cut)
    strappy = sleeve == "strappy"
    pieces: list[Piece] = []
    if neckline == "hood":
        pieces += collars.hood_back()
    opened = garment.fastening == "open front"
    torso = replace(body, hem_y=44.0, hem=body.waist) if kind == "dress" else body
    if opened:
        pieces += _open_back(body)
    else:
        pieces += bodies.back(body, neckline, strappy)
    if strappy:
        pieces += _straps()
    if kind == "dress":
        hem = (19.0 + 0.17 * SKIRT_LENGTHS[garment.length]) * cut.flare + 3.0
        pieces += lower.skirt(torso.waist, hem, body.hem_y - 44.0, 44.0)
    elif kind == "jumpsuit":
        leg = lower.Leg(
            waist=torso.waist, outer=27.0, inner=3.0, length=LEG_LENGTHS[garment.length]
        )
        pieces += lower.legs(leg, 44.0, crease=garment.length == "full-length")
        pieces += lower.slant_pockets(leg, 44.0)
    if sleeve not in ("strappy", "sleeveless"):
        pieces += sleeves.sleeves(
            body, sleeve, cut.spread, cuffs=_cuffs(kind), low=neckline == "off-the-shoulder"
        )
    half = bodies.front_half(torso, neckline, sleeve)
    folds = "hanging" if kind == "coat" else "soft"
    if opened:
        pieces += _open_front(body, half, garment)
    else:
        pieces.append(Cloth(mirrored(half), folds=folds))
    if sleeve not in ("strappy", "sleeveless") and neckline != "off-the-shoulder":
        seam = bezier(body.shoulder_point, (body.shoulder - 1.2, 16.0), body.armpit)
        pieces += [Stroke(seam, strength=0.2), Stroke(flip(seam), strength=0.2)]
    elif sleeve == "sleeveless":
        edge = bezier(
            (body.shoulder - 6.2, 2.6), (body.shoulder - 7.2, 22.5), (body.chest - 1, 25.4)
        )
        pieces += [Stroke(edge, strength=0.2), Stroke(flip(edge), strength=0.2)]
    if not opened:
        pieces += _hem(kind, body, torso)
        pieces += bodies.neck_edge(neckline, strappy)
    if neckline == "hood":
        pieces += collars.hood_front()
    pieces += _fastening(garment, body)
    if not (opened and neckline == "hood"):
        pieces += collars.collar(neckline)
    pieces += _pockets(kind, body, garment)
    if garment.fastening == "tie belt":
        pieces += fastenings.belt(_belt_width(body), _belt_height(body, kind))
    return pieces


def _belt_height(body: Body, kind: str) -> float:
    if kind in ("dress", "jumpsuit"):
        return 41.6
    return min(body.waist_y, body.hem_y - 12.0)


def _belt_width(body: Body) -> float:
    return body.waist + (0.6 if body.hem_y < body.waist_y + 10 else 0.2)


def _cuffs(kind: str) -> str:
    if kind in RIBBED or kind == "polo shirt":
        return "ribbed"
    if kind in ("shirt", "blouse", "jacket"):
        return "buttoned"
    return "stitched"


def _straps() -> list[Piece]:
    pieces: list[Piece] = []
    for side in (-1.0, 1.0):
        back = line((side * 8.5, 0.6), (side * 9.8, 22.0))
        strip = line((side * 8.3, 0.0), (side * 9.9, 0.0), (side * 12.9, 14.5), (side * 10.9, 14.5))
        pieces.append(Stroke(back, 1.2, colour=None))
        pieces.append(Cloth(strip, FABRIC, folds="none", depth=0.5))
    return pieces


def _open_back(body: Body) -> list[Piece]:
    half = np.concatenate(
        [
            bezier((0, 2.2), (6, 2.0), (9.0, 0.0), n=8),
            line(body.shoulder_point, body.armpit, (body.waist, body.waist_y)),
            line((body.hem - 2, body.hem_y - 2.0), (0, body.hem_y - 2.0)),
        ]
    )
    label: list[Piece] = [Stroke(line((-1.9, 4.2), (1.9, 4.2)), 2.0, colour=LINING)]
    return [Cloth(mirrored(half), INSIDE, folds="hanging", depth=0.8), *label]


def _open_front(body: Body, half: Points, garment: Garment) -> list[Piece]:
    """Two front panels that leave the middle open."""
    top = half[np.argmin(half[:, 1])]
    start = int(np.argmin(half[:, 1]))
    edge = bezier(
        (6.5, body.hem_y + 0.5), (4.0, body.hem_y * 0.45), (float(top[0]), float(top[1])), n=18
    )
    side = half[start:]
    side = side[side[:, 0] >= 6.5]
    panel = np.concatenate([edge, side])
    pieces: list[Piece] = [
        Cloth(flip(panel), folds="soft"),
        Cloth(panel, folds="soft"),
    ]
    band = edge + np.array([2.6, 0.0])
    pieces += [Stroke(band, strength=0.22), Stroke(flip(band), strength=0.22)]
    if garment.product_type == "jacket":
        for curve in (edge + np.array([0.5, 0.0]),):
            pieces += [
                Stroke(curve, 1.0, colour=METAL),
                Stroke(flip(curve), 1.0, colour=METAL),
            ]
    return pieces


def _hem(kind: str, body: Body, torso: Body) -> list[Piece]:
    if kind in RIBBED:
        return bodies.hem_band(body, 5.0)
    if kind == "jacket":
        return bodies.hem_band(body, 4.0)[:1]
    if kind == "dress":
        seam = bezier((0, 45.2), (torso.waist * 0.6, 45.2), (torso.waist, 44.0))
        gathers = line((0, 45), (torso.waist, 44)), line((0, 52), (torso.waist * 1.1, 50.5))
        return [
            Stroke(np.concatenate([flip(seam[::-1]), seam[::-1]]), strength=0.26),
            Ribs(gathers[0], gathers[1], 9),
            Ribs(flip(gathers[0]), flip(gathers[1]), 9),
        ]
    if kind == "jumpsuit":
        return lower.waistband(torso.hem - 0.5, 45.5, 3.4)
    edge = bodies.hem_curve(body)[::-1] - np.array([0.0, 2.2])
    return [Stroke(np.concatenate([flip(edge), edge]), strength=0.18)]


def _placket_fill(garment: Garment) -> str:
    """Buttons would be lost on a pattern: there the placket is plain."""
    return FABRIC if garment.pattern == "colour-blocked" else MAIN


def _fastening(garment: Garment, body: Body) -> list[Piece]:
    kind, fastening = garment.product_type, garment.fastening
    depth = bodies.neck_curve(garment.neckline, garment.sleeve == "strappy")[0, 1]
    top = float(depth) + 0.5
    bottom = 43.0 if kind == "jumpsuit" else body.hem_y
    end = bottom + 0.8
    if fastening == "buttons":
        if garment.neckline == "lapels":
            last = min(bottom - 6, top + (14.0 if kind == "blazer" else 52.0))
            seam = line((0.2, top + 1), (0.2, end))
            return [Stroke(seam, 0.5, 0.3), *fastenings.buttons(top + 2.0, last, 11.0, 1.6)]
        strip = fastenings.placket(top - 0.5, end + 0.4, _placket_fill(garment))
        last = bottom - 5.0 if kind != "dress" else body.hem_y - 12.0
        return [*strip, *fastenings.buttons(top + 2.0, last, 9.0 if bottom < 90 else 10.5)]
    if fastening == "double-breasted":
        seam = line((-6.5, top + 3), (-6.5, end))
        rows = fastenings.buttons(
            max(top + 2.0, 24.0), min(bottom - 8, max(top, 24.0) + 30.0), 12.0, 6.2
        )
        twins = fastenings.buttons(
            max(top + 2.0, 24.0), min(bottom - 8, max(top, 24.0) + 30.0), 12.0, -4.4
        )
        return [Stroke(seam, 0.5, 0.32), *rows, *twins]
    if fastening == "button placket":
        strip = fastenings.placket(top - 0.5, top + 15.0, _placket_fill(garment))
        return [*strip, *fastenings.buttons(top + 2.0, top + 13.0, 5.0)]
    if fastening == "zip":
        return fastenings.zipper(top - 1.0, end)
    if fastening == "half zip":
        return fastenings.zipper(top - 1.0, top + 19.0)
    if garment.neckline == "lapels":
        seam = line((0.2, top + 1), (0.2, end))
        return [Stroke(seam, 0.5, 0.3)]
    if fastening == "tie belt" and kind in ("cardigan", "coat"):
        return [Stroke(line((0.2, top), (0.2, end)), 0.5, 0.3)]
    return []


def _pockets(kind: str, body: Body, garment: Garment) -> list[Piece]:
    if kind == "hoodie":
        y = body.hem_y - 6.0
        if garment.fastening == "zip":
            slit = line((6.0, y - 14), (14.0, y - 2))
            return [Stroke(slit, 0.6, 0.3), Stroke(flip(slit), 0.6, 0.3)]
        height = 13.0
        outline = line((0, y - height), (10.0, y - height), (16.0, y - 4), (16.0, y), (0, y))
        cords = fastenings.drawstrings(12.0, 16.0) if garment.fastening == "none" else []
        return [Cloth(mirrored(outline), folds="none", depth=0.5), *cords]
    if kind == "shirt":
        return lower.patch_pocket(7.5, 24.0, 10.0, 12.0)
    if kind in ("jacket", "blazer"):
        y = body.hem_y - (18.0 if kind == "blazer" else 20.0)
        y = max(y, 34.0)
        flap = line((8.5, y), (20.0, y - 1.0), (20.0, y + 3.4), (8.5, y + 4.4))
        return list(both_sides(Cloth(flap, folds="none", depth=0.5)))
    if kind == "coat":
        flap = line((10.5, 60.0), (23.0, 58.5), (23.4, 63.5), (10.9, 65.0))
        return list(both_sides(Cloth(flap, folds="none", depth=0.5)))
    return []


def _skirt(garment: Garment, cut: Cut) -> list[Piece]:
    length = SKIRT_LENGTHS[garment.length]
    waist = 17.5 * cut.width
    pleated = garment.product_type == "pleated skirt"
    if pleated:
        hem = waist + (7.0 + 0.20 * length) * cut.flare
    else:
        hem = waist + (4.0 + 0.15 * length) * cut.flare
    pieces = lower.skirt(waist, hem, length, 0.0, pleats=13 if pleated else 0)
    pieces += lower.waistband(waist, 0.0, gathered=garment.fastening == "none" and not pleated)
    if garment.fastening == "buttons":
        pieces += fastenings.placket(0.5, length + 2.4, _placket_fill(garment))
        pieces += fastenings.buttons(-1.8, length - 5.0, 9.5)
    elif garment.fastening == "zip":
        pieces += fastenings.zipper(-2.5, min(length * 0.7, 26.0))
    elif garment.fastening == "tie belt":
        pieces += fastenings.belt(waist, -4.2)
    return pieces


def _trousers(garment: Garment, cut: Cut) -> list[Piece]:
    kind = garment.product_type
    length = LEG_LENGTHS[garment.length]
    waist = 18.0 * cut.width
    if kind == "wide-leg trousers":
        leg = lower.Leg(waist, 24.5, 34.0 * cut.flare, 2.0, length)
    elif kind == "jeans":
        leg = lower.Leg(waist, 23.5, 22.0 * cut.flare, 7.0, length)
    elif kind == "shorts":
        leg = lower.Leg(waist, 25.0, 28.5 * cut.flare, 1.5, length)
    else:
        leg = lower.Leg(waist, 24.5, 24.5 * cut.flare, 6.0, length)
    tied = garment.fastening in ("drawstring", "none")
    pieces = lower.legs(
        leg,
        0.0,
        crease=kind in ("trousers", "wide-leg trousers"),
        turn_up=kind in ("jeans", "shorts"),
    )
    pieces += lower.waistband(waist, 0.0, 4.4, gathered=tied)
    if kind == "jeans":
        return pieces + lower.jeans_details(leg, 0.0, button=garment.fastening == "buttons")
    pieces += lower.slant_pockets(leg, 0.0)
    if garment.fastening == "drawstring":
        pieces += fastenings.drawstrings(-2.0, 17.0)
    elif garment.fastening == "tie belt":
        pieces += fastenings.belt(waist, -4.0)
    elif garment.fastening == "buttons":
        pieces += fastenings.buttons(-2.0, 8.5, 5.2)
        fly = bezier((3.6, 0.8), (3.8, 13), (0.3, 17))
        pieces.append(Stroke(fly, strength=0.24))
    return pieces
