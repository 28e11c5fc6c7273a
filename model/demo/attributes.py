"""The demo catalogue's vocabulary: which garments there are and what may vary about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np

RGB = tuple[int, int, int]

COLOURS: Mapping[str, RGB] = MappingProxyType(
    {
        "black": (24, 24, 28),
        "grey": (158, 160, 164),
        "white": (250, 250, 248),
        "beige": (218, 194, 154),
        "camel": (190, 136, 74),
        "brown": (96, 58, 36),
        "burgundy": (112, 18, 44),
        "red": (206, 28, 36),
        "coral": (252, 124, 104),
        "orange": (240, 126, 16),
        "mustard": (206, 160, 30),
        "yellow": (252, 226, 70),
        "olive": (108, 114, 46),
        "bottle green": (14, 78, 50),
        "emerald": (0, 152, 92),
        "mint": (164, 228, 198),
        "teal": (0, 116, 130),
        "sky blue": (140, 192, 240),
        "cobalt": (32, 72, 204),
        "navy": (24, 34, 86),
        "lilac": (194, 160, 228),
        "purple": (108, 46, 146),
        "pink": (250, 168, 196),
        "fuchsia": (216, 30, 132),
    }
)
"""The named colours (sRGB), chosen to lie apart in CIE Lab: no two nearer than ΔE*ab 24."""

PATTERNS: Mapping[str, float] = MappingProxyType(
    {
        "plain": 0.25,
        "striped": 0.15,
        "checked": 0.15,
        "dotted": 0.15,
        "floral": 0.15,
        "colour-blocked": 0.15,
    }
)
"""The patterns and how often each is drawn. All but `plain` have a second colour."""

SECOND_COLOUR_DISTANCE = 50.0
"""A pattern's two colours are at least this far apart (ΔE*ab), so that the pattern shows."""

DENIM_COLOURS = ("navy", "sky blue", "black", "grey", "white", "cobalt")

NECKLINES = (
    "crew neck",
    "scoop neck",
    "V-neck",
    "square neck",
    "boat neck",
    "off-the-shoulder",
    "roll neck",
    "pointed collar",
    "stand collar",
    "lapels",
    "hood",
    "pussy bow",
)
SLEEVES = ("strappy", "sleeveless", "cap", "short", "puff", "three-quarter", "long")
LENGTHS = (
    "cropped",
    "regular",
    "longline",
    "mini",
    "knee-length",
    "midi",
    "maxi",
    "full-length",
)
FASTENINGS = (
    "none",
    "buttons",
    "button placket",
    "double-breasted",
    "zip",
    "half zip",
    "open front",
    "tie belt",
    "drawstring",
)


@dataclass(frozen=True, slots=True)
class GarmentType:
    """What may vary about one type of garment. An empty tuple: the type has no such attribute."""

    name: str
    necklines: tuple[str, ...]
    sleeves: tuple[str, ...]
    lengths: tuple[str, ...]
    fastenings: tuple[str, ...]
    price: float
    """The middle of the price range."""


_TYPES = (
    GarmentType(
        "t-shirt",
        ("crew neck", "V-neck", "scoop neck"),
        ("cap", "short", "long"),
        ("cropped", "regular", "longline"),
        ("none",),
        18.0,
    ),
    GarmentType(
        "vest top",
        ("scoop neck", "V-neck", "square neck"),
        ("strappy", "sleeveless"),
        ("cropped", "regular", "longline"),
        ("none",),
        14.0,
    ),
    GarmentType(
        "shirt",
        ("pointed collar", "stand collar"),
        ("short", "three-quarter", "long"),
        ("regular", "longline"),
        ("buttons", "button placket"),
        39.0,
    ),
    GarmentType(
        "polo shirt",
        ("pointed collar",),
        ("short", "long"),
        ("cropped", "regular"),
        ("button placket", "half zip"),
        32.0,
    ),
    GarmentType(
        "blouse",
        ("V-neck", "square neck", "boat neck", "off-the-shoulder", "pussy bow"),
        ("puff", "three-quarter", "long"),
        ("cropped", "regular"),
        ("none", "buttons", "tie belt"),
        42.0,
    ),
    GarmentType(
        "sweater",
        ("crew neck", "V-neck", "roll neck", "boat neck"),
        ("three-quarter", "long"),
        ("cropped", "regular", "longline"),
        ("none", "half zip"),
        49.0,
    ),
    GarmentType(
        "hoodie",
        ("hood",),
        ("short", "long"),
        ("cropped", "regular", "longline"),
        ("none", "zip", "half zip"),
        45.0,
    ),
    GarmentType(
        "cardigan",
        ("V-neck", "crew neck"),
        ("three-quarter", "long"),
        ("cropped", "regular", "longline"),
        ("buttons", "open front", "tie belt"),
        52.0,
    ),
    GarmentType(
        "jacket",
        ("pointed collar", "stand collar", "hood"),
        ("long",),
        ("cropped", "regular"),
        ("zip", "buttons", "open front"),
        89.0,
    ),
    GarmentType(
        "blazer",
        ("lapels",),
        ("three-quarter", "long"),
        ("cropped", "regular", "longline"),
        ("buttons", "double-breasted", "tie belt"),
        99.0,
    ),
    GarmentType(
        "coat",
        ("lapels", "stand collar", "hood"),
        ("long",),
        ("knee-length", "midi"),
        ("buttons", "double-breasted", "zip", "tie belt"),
        149.0,
    ),
    GarmentType(
        "dress",
        (
            "crew neck",
            "scoop neck",
            "V-neck",
            "square neck",
            "boat neck",
            "off-the-shoulder",
            "pointed collar",
        ),
        ("strappy", "sleeveless", "short", "puff", "three-quarter", "long"),
        ("mini", "knee-length", "midi", "maxi"),
        ("none", "buttons", "tie belt"),
        65.0,
    ),
    GarmentType(
        "skirt",
        (),
        (),
        ("mini", "knee-length", "midi", "maxi"),
        ("none", "buttons", "zip", "tie belt"),
        38.0,
    ),
    GarmentType(
        "pleated skirt",
        (),
        (),
        ("mini", "knee-length", "midi", "maxi"),
        ("none", "tie belt"),
        44.0,
    ),
    GarmentType(
        "trousers",
        (),
        (),
        ("cropped", "full-length"),
        ("buttons", "drawstring", "tie belt"),
        55.0,
    ),
    GarmentType(
        "wide-leg trousers",
        (),
        (),
        ("cropped", "full-length"),
        ("none", "buttons", "drawstring", "tie belt"),
        58.0,
    ),
    GarmentType("jeans", (), (), ("cropped", "full-length"), ("buttons", "zip"), 59.0),
    GarmentType(
        "shorts",
        (),
        (),
        ("mini", "knee-length"),
        ("buttons", "drawstring", "tie belt"),
        29.0,
    ),
    GarmentType(
        "jumpsuit",
        ("crew neck", "V-neck", "square neck", "pointed collar"),
        ("strappy", "sleeveless", "short", "long"),
        ("mini", "cropped", "full-length"),
        ("none", "buttons", "zip", "tie belt"),
        79.0,
    ),
)
GARMENT_TYPES: Mapping[str, GarmentType] = MappingProxyType({kind.name: kind for kind in _TYPES})

STRAPPY_NECKLINES = ("scoop neck", "V-neck", "square neck")
OFF_SHOULDER_SLEEVES = ("short", "puff", "three-quarter", "long")


@dataclass(frozen=True, slots=True)
class Garment:
    """Everything about a garment that a picture shows. An empty string: there is no such part."""

    product_type: str
    colour: str
    second_colour: str
    pattern: str
    neckline: str
    sleeve: str
    length: str
    fastening: str


def lab(rgb: RGB) -> np.ndarray:
    """Return CIE Lab (D65) of an sRGB colour, float64 [3]."""
    value = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = to_xyz @ linear / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def colour_distance(first: str, second: str) -> float:
    """Return ΔE*ab (CIE 1976) between two named colours."""
    return float(np.linalg.norm(lab(COLOURS[first]) - lab(COLOURS[second])))


@cache
def second_colours(colour: str) -> tuple[str, ...]:
    """Return the colours that a pattern on `colour` may have."""
    return tuple(
        other for other in COLOURS if colour_distance(colour, other) >= SECOND_COLOUR_DISTANCE
    )


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))] if choices else ""


def sample_garment(rng: np.random.Generator) -> Garment:
    """Draw a garment at random. Only combinations that can be sewn come out."""
    kind = _TYPES[int(rng.integers(len(_TYPES)))]
    sleeve = _pick(rng, kind.sleeves)
    necklines = kind.necklines
    if sleeve == "strappy":
        necklines = tuple(n for n in necklines if n in STRAPPY_NECKLINES)
    elif sleeve and sleeve not in OFF_SHOULDER_SLEEVES:
        necklines = tuple(n for n in necklines if n != "off-the-shoulder")
    neckline = _pick(rng, necklines)
    fastenings = kind.fastenings
    if neckline == "off-the-shoulder":
        fastenings = tuple(f for f in fastenings if f != "buttons")
    elif neckline in ("V-neck", "boat neck", "roll neck"):
        fastenings = tuple(f for f in fastenings if f != "half zip")
    fastening = _pick(rng, fastenings)
    length = _pick(rng, kind.lengths)
    if kind.name == "jeans" and rng.random() < 0.5:
        colour = _pick(rng, DENIM_COLOURS)
    else:
        colour = _pick(rng, tuple(COLOURS))
    pattern = str(rng.choice(tuple(PATTERNS), p=tuple(PATTERNS.values())))
    second = "" if pattern == "plain" else _pick(rng, second_colours(colour))
    return Garment(kind.name, colour, second, pattern, neckline, sleeve, length, fastening)
