"""Describes a garment in words, as differently as shops do.

A description states nearly all that the picture shows of the garment and nothing that it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from model.demo.attributes import Garment

Words = Mapping[str, tuple[str, ...]]

OMIT_ONE = 0.2
"""How often a description leaves out one of neckline, sleeves, length and fastening."""

NOUNS: Words = MappingProxyType(
    {
        "t-shirt": ("t-shirt", "tee", "T-shirt"),
        "vest top": ("vest top", "tank top", "vest"),
        "shirt": ("shirt",),
        "polo shirt": ("polo shirt", "polo"),
        "blouse": ("blouse",),
        "sweater": ("sweater", "jumper", "knitted jumper", "pullover"),
        "hoodie": ("hoodie", "hooded sweatshirt"),
        "cardigan": ("cardigan", "knitted cardigan"),
        "jacket": ("jacket",),
        "blazer": ("blazer", "tailored jacket"),
        "coat": ("coat", "overcoat"),
        "dress": ("dress",),
        "skirt": ("skirt", "A-line skirt"),
        "pleated skirt": ("pleated skirt", "skirt with pleats"),
        "trousers": ("trousers", "pants"),
        "wide-leg trousers": ("wide-leg trousers", "wide trousers", "flared wide-leg pants"),
        "jeans": ("jeans", "denim jeans"),
        "shorts": ("shorts",),
        "jumpsuit": ("jumpsuit", "all-in-one"),
    }
)
PLURALS = ("trousers", "wide-leg trousers", "jeans", "shorts")

COLOURED: Words = MappingProxyType(
    {
        "plain": ("plain {a}", "{a}", "solid {a}", "{a}"),
        "striped": (
            "{a} and {b} striped",
            "{a} {b}-striped",
            "stripy {a} and {b}",
        ),
        "checked": (
            "{a} and {b} checked",
            "{a} and {b} gingham",
            "{a} {b}-check",
            "checked {a} and {b}",
        ),
        "dotted": ("{a} {b}-spotted", "{a} {b} polka-dot", "{b}-dotted {a}", "{a} and {b} spotty"),
        "floral": (
            "{a} {b}-floral",
            "{a} and {b} flowered",
            "{a} {b} flower-print",
            "floral {a} and {b}",
        ),
        "colour-blocked": (
            "{a} and {b} colour-block",
            "colour-blocked {a} and {b}",
            "two-tone {a} and {b}",
            "half {a}, half {b}",
        ),
    }
)
"""Before the noun; {a} is the main colour and {b} the second."""

IN_PATTERN: Words = MappingProxyType(
    {
        "plain": ("in {a}", "in plain {a}", "in solid {a}"),
        "striped": ("in {a} with {b} stripes", "with {b} stripes on {a}", "in {a} and {b} stripes"),
        "checked": ("in {a} and {b} checks", "in {a} with {b} checks", "in {a} and {b} gingham"),
        "dotted": (
            "in {a} with {b} dots",
            "with {b} spots on {a}",
            "in {a} with {b} polka dots",
        ),
        "floral": (
            "in {a} with {b} flowers",
            "printed with {b} flowers on {a}",
            "with {b} blossoms on {a}",
        ),
        "colour-blocked": (
            "in {a} above and {b} below",
            "in {a} with the lower half in {b}",
            "in blocks of {a} and {b}",
        ),
    }
)
"""After the noun."""

NECKLINE: Words = MappingProxyType(
    {
        "crew neck": ("a crew neck", "a round neck", "a round neckline"),
        "scoop neck": ("a scoop neck", "a scooped neckline", "a low round neckline"),
        "V-neck": ("a V-neck", "a V-shaped neckline", "a V-neckline"),
        "square neck": ("a square neck", "a square-cut neckline"),
        "boat neck": ("a boat neck", "a wide bateau neckline", "a slash neck"),
        "off-the-shoulder": ("an off-the-shoulder neckline", "bare shoulders", "a Bardot neckline"),
        "roll neck": ("a roll neck", "a high rolled neck", "a turtleneck"),
        "pointed collar": ("a pointed collar", "a classic collar", "a shirt collar"),
        "stand collar": ("a stand-up collar", "a band collar", "a grandad collar"),
        "lapels": ("lapels", "notched lapels", "a lapel collar"),
        "hood": ("a hood",),
        "pussy bow": ("a pussy bow", "a bow at the neck", "a tied neck bow"),
    }
)
SLEEVE: Words = MappingProxyType(
    {
        "strappy": ("thin straps", "spaghetti straps", "narrow shoulder straps"),
        "sleeveless": ("no sleeves", "a sleeveless cut", "bare arms"),
        "cap": ("cap sleeves", "very short cap sleeves"),
        "short": ("short sleeves", "half sleeves"),
        "puff": ("short puff sleeves", "puffed short sleeves", "puff sleeves"),
        "three-quarter": ("three-quarter sleeves", "3/4 sleeves", "three-quarter-length sleeves"),
        "long": ("long sleeves", "wrist-length sleeves", "sleeves to the wrist"),
    }
)
TOP_LENGTH: Words = MappingProxyType(
    {
        "cropped": ("a cropped length", "a short, cropped body"),
        "regular": ("a regular length", "a hip-length body", "a hip length"),
        "longline": ("a longline cut", "a long, thigh-length body", "a tunic length"),
    }
)
HEM_LENGTH: Words = MappingProxyType(
    {
        "mini": ("a mini length", "a short mini hem", "a hem well above the knee"),
        "knee-length": ("a knee-length hem", "a hem at the knee", "a knee length"),
        "midi": ("a midi length", "a mid-length hem", "a calf-length hem"),
        "maxi": ("a maxi length", "an ankle-length hem", "a full-length maxi hem"),
    }
)
LEG_LENGTH: Words = MappingProxyType(
    {
        "mini": ("a short leg", "short legs", "a leg well above the knee"),
        "knee-length": ("a knee-length leg", "legs to the knee", "a Bermuda length"),
        "cropped": ("a cropped leg", "cropped legs", "a calf-length leg"),
        "full-length": ("a full-length leg", "long legs", "full-length legs"),
    }
)
FASTENING: Words = MappingProxyType(
    {
        "none": (),
        "buttons": ("a buttoned front", "buttons down the front", "a button fastening"),
        "button placket": ("a short button placket", "a few buttons at the neck", "a half placket"),
        "double-breasted": ("a double-breasted front", "two rows of buttons"),
        "zip": ("a zip", "a zip fastening", "a front zip"),
        "half zip": ("a half zip", "a short zip at the neck", "a quarter zip"),
        "open front": ("an open front", "an edge-to-edge front without fastening"),
        "tie belt": ("a tie belt", "a belt tied in a bow", "a self-tie waist"),
        "drawstring": ("a drawstring", "a drawstring waist", "a tie-cord waist"),
    }
)
BEFORE_NOUN: Mapping[str, Words] = MappingProxyType(
    {
        "neckline": {
            "crew neck": ("crew-neck", "round-neck"),
            "scoop neck": ("scoop-neck",),
            "V-neck": ("V-neck",),
            "square neck": ("square-neck",),
            "boat neck": ("boat-neck",),
            "off-the-shoulder": ("off-the-shoulder", "Bardot"),
            "roll neck": ("roll-neck", "turtleneck"),
            "hood": ("hooded",),
        },
        "sleeve": {
            "strappy": ("strappy",),
            "sleeveless": ("sleeveless",),
            "short": ("short-sleeved", "short-sleeve"),
            "puff": ("puff-sleeved",),
            "long": ("long-sleeved", "long-sleeve"),
        },
        "length": {
            "cropped": ("cropped",),
            "longline": ("longline",),
            "mini": ("mini",),
            "knee-length": ("knee-length",),
            "midi": ("midi", "mid-length"),
            "maxi": ("maxi",),
        },
        "fastening": {
            "buttons": ("buttoned", "button-front"),
            "double-breasted": ("double-breasted",),
            "zip": ("zipped", "zip-up"),
            "half zip": ("half-zip",),
            "open front": ("open-front",),
            "tie belt": ("belted", "tie-waist"),
            "drawstring": ("drawstring",),
        },
    }
)
"""Facts that can stand before the noun."""

TITLE_PATTERN: Words = MappingProxyType(
    {
        "plain": ("{a}",),
        "striped": ("{a} striped", "{a} and {b} striped"),
        "checked": ("{a} checked", "{a} and {b} checked"),
        "dotted": ("{a} polka-dot", "{a} dotted", "{a} and {b} spotted"),
        "floral": ("{a} floral", "{a} and {b} floral"),
        "colour-blocked": ("{a} colour-block", "{a} and {b} colour-block"),
    }
)
OPENINGS = ("", "", "", "Our ", "This season's ", "The ")


def _one(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _article(phrase: str) -> str:
    return ("An " if phrase[0].lower() in "aeio" else "A ") + phrase


def _capital(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:]


def _listed(facts: list[str]) -> str:
    return facts[0] if len(facts) == 1 else ", ".join(facts[:-1]) + " and " + facts[-1]


def _facts(garment: Garment) -> dict[str, tuple[str, ...]]:
    """Return, for each fact beside colour, pattern and type, the phrases that fit after "with"."""
    kind = garment.product_type
    facts: dict[str, tuple[str, ...]] = {}
    if garment.neckline and kind != "hoodie":  # a hoodie has a hood
        facts["neckline"] = NECKLINE[garment.neckline]
        if garment.neckline == "stand collar" and kind in ("jacket", "coat"):
            facts["neckline"] = NECKLINE["stand collar"][:2]
    if garment.sleeve:
        facts["sleeve"] = SLEEVE[garment.sleeve]
    legs = kind in PLURALS or kind == "jumpsuit"
    table = LEG_LENGTH if legs else HEM_LENGTH if garment.length in HEM_LENGTH else TOP_LENGTH
    facts["length"] = table[garment.length]
    if FASTENING[garment.fastening]:
        facts["fastening"] = FASTENING[garment.fastening]
        if kind in ("trousers", "wide-leg trousers", "shorts", "jeans"):
            facts["fastening"] = {
                "buttons": ("a button fly", "buttons at the fly", "a buttoned fly"),
                "zip": ("a zip fly", "a zip", "a zip fastening"),
            }.get(garment.fastening, facts["fastening"])
    return facts


def describe(garment: Garment, rng: np.random.Generator) -> tuple[str, str]:
    """Return a title and a description of `garment` in one of many phrasings."""
    noun = _one(rng, NOUNS[garment.product_type])
    colours = {"a": garment.colour, "b": garment.second_colour}
    title_noun = NOUNS[garment.product_type][0]
    title = _capital(f"{_one(rng, TITLE_PATTERN[garment.pattern]).format(**colours)} {title_noun}")

    facts = _facts(garment)
    if rng.random() < OMIT_ONE:
        del facts[_one(rng, tuple(facts))]
    order = list(facts)
    rng.shuffle(order)

    before = ""
    for name in order:
        adjectives = BEFORE_NOUN[name].get(getattr(garment, name))
        legs = garment.product_type in (*PLURALS, "jumpsuit")
        if legs and name == "length" and garment.length != "cropped":
            adjectives = None
        if garment.product_type in PLURALS and name == "fastening" and garment.fastening == "zip":
            adjectives = None
        if adjectives and rng.random() < 0.45:
            before = _one(rng, adjectives) + " "
            order.remove(name)
            break

    coloured_first = rng.random() < 0.5
    if coloured_first:
        phrase = _one(rng, COLOURED[garment.pattern]).format(**colours)
        head = f"{before}{phrase} {noun}" if rng.random() < 0.5 else f"{phrase} {before}{noun}"
    else:
        phrase = _one(rng, IN_PATTERN[garment.pattern]).format(**colours)
        head = f"{before}{noun} {phrase}"
    if noun == "skirt with pleats" and not coloured_first:
        head = head.replace("skirt with pleats", "pleated skirt")

    opening = _one(rng, OPENINGS)
    if opening:
        head = opening + head
    elif garment.product_type in PLURALS:
        head = _capital(head) if rng.random() < 0.5 else "A pair of " + head
    else:
        head = _capital(head) if rng.random() < 0.4 else _article(head)
    rest = [_one(rng, facts[name]) for name in order]
    return title, _sentences(head, rest, rng, plural=garment.product_type in PLURALS)


def _sentences(head: str, rest: list[str], rng: np.random.Generator, *, plural: bool) -> str:
    """Join the opening clause and the remaining facts in one of several ways."""
    if not rest:
        return head + "."
    subject, verb = ("They", "have") if plural else ("It", "has")
    style = int(rng.integers(5))
    joint = ", with " if " with " in head else " with "
    if style == 0 or len(rest) == 1:
        return f"{head}{joint}{_listed(rest)}."
    if style == 1:
        return f"{head}. {subject} {verb} {_listed(rest)}."
    if style == 2:
        return f"{head}. {_capital(_listed(rest))}."
    if style == 3:
        return f"{head}{joint}{rest[0]}. {subject} {verb} {_listed(rest[1:])}."
    return f"{head}: {', '.join(rest)}."
