from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from model.demo.attributes import COLOURS, GARMENT_TYPES, Garment, lab
from model.demo.cuts import Cut, sample_cut
from model.demo.drawing import BACKGROUNDS, View, draw_garment, sample_view

DRESS = Garment("dress", "navy", "", "plain", "crew neck", "short", "knee-length", "none")


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=np.float32)


def difference(first: Garment, second: Garment) -> float:
    """The share of pixels that differ clearly, at the size a small network sees."""
    a, b = (pixels(draw_garment(g).resize((96, 128))) for g in (first, second))
    return float((np.abs(a - b).max(axis=2) > 25).mean())


def choices() -> list[Garment]:
    """Every neckline, sleeve, length and fastening of every type, once."""
    garments = []
    for kind in GARMENT_TYPES.values():
        count = max(map(len, (kind.necklines, kind.sleeves, kind.lengths, kind.fastenings)))
        for i in range(count):
            neckline, sleeve, length, fastening = (
                options[i % len(options)] if options else ""
                for options in (kind.necklines, kind.sleeves, kind.lengths, kind.fastenings)
            )
            if sleeve == "strappy" and neckline not in ("scoop neck", "V-neck", "square neck"):
                sleeve = "short"
            if neckline == "off-the-shoulder" and sleeve in ("sleeveless", "cap"):
                sleeve = "short"
            garments.append(
                Garment(kind.name, "teal", "", "plain", neckline, sleeve, length, fastening)
            )
    return garments


@pytest.mark.parametrize("garment", choices(), ids=lambda g: "-".join(vars_of(g)))
def test_every_choice_is_drawn_in_its_colour_and_inside_the_frame(garment: Garment) -> None:
    picture = draw_garment(garment)
    assert picture.mode == "RGB"
    assert picture.size == (192, 256)
    image = pixels(picture)
    is_cloth = image[..., 0] < 140  # teal has no red; every background is light
    assert 0.08 < is_cloth.mean() < 0.7
    assert not is_cloth[[0, -1]].any()
    assert not is_cloth[:, [0, -1]].any()
    median = tuple(int(v) for v in np.median(image[is_cloth], axis=0))
    distances = {name: np.linalg.norm(lab(median) - lab(rgb)) for name, rgb in COLOURS.items()}
    assert min(distances, key=lambda name: distances[name]) == "teal"


def vars_of(garment: Garment) -> tuple[str, ...]:
    return (
        garment.product_type,
        garment.neckline,
        garment.sleeve,
        garment.length,
        garment.fastening,
    )


@pytest.mark.parametrize("colour", COLOURS)
def test_each_colour_is_recognisable(colour: str) -> None:
    image = pixels(draw_garment(replace(DRESS, colour=colour)))
    middle = image[150:190, 80:112].reshape(-1, 3)
    median = tuple(int(v) for v in np.median(middle, axis=0))
    distances = {name: np.linalg.norm(lab(median) - lab(rgb)) for name, rgb in COLOURS.items()}
    assert min(distances, key=lambda name: distances[name]) == colour


@pytest.mark.parametrize("pattern", ["striped", "checked", "dotted", "floral", "colour-blocked"])
def test_a_pattern_shows_both_colours(pattern: str) -> None:
    garment = replace(DRESS, colour="white", second_colour="red", pattern=pattern)
    cloth = pixels(draw_garment(garment))[60:200, 75:117].reshape(-1, 3)
    red = ((cloth[:, 0] - cloth[:, 1] > 90) & (cloth[:, 0] > 150)).mean()
    white = (cloth.min(axis=1) > 170).mean()
    assert red > 0.12
    assert white > 0.12


@pytest.mark.parametrize(
    ("attribute", "values", "least"),
    [
        ("pattern", ("striped", "checked", "dotted", "floral", "colour-blocked"), 0.05),
        ("sleeve", ("strappy", "sleeveless", "short", "puff", "three-quarter", "long"), 0.01),
        ("length", ("mini", "knee-length", "midi", "maxi"), 0.05),
        ("neckline", ("crew neck", "scoop neck", "V-neck", "square neck", "boat neck"), 0.002),
        ("fastening", ("none", "buttons", "tie belt"), 0.002),
    ],
)
def test_attributes_show_at_128_pixels(
    attribute: str, values: tuple[str, ...], least: float
) -> None:
    base = replace(DRESS, neckline="V-neck", colour="yellow")
    for first, second in pairwise(values):
        garments = [
            replace(
                base, **{attribute: value}, second_colour="navy" if attribute == "pattern" else ""
            )
            for value in (first, second)
        ]
        assert difference(garments[0], garments[1]) > least, (first, second)


def test_same_arguments_same_picture() -> None:
    garment = replace(DRESS, pattern="floral", second_colour="pink", sleeve="long")
    cut, view = Cut(folds=3), View(background=2, rotation=3.0, mirror=True)
    first = draw_garment(garment, cut=cut, view=view)
    second = draw_garment(garment, cut=cut, view=view)
    assert first.tobytes() == second.tobytes()


def test_views_differ_and_keep_the_garment_in_the_picture() -> None:
    rng = np.random.default_rng(3)
    coat = Garment("coat", "navy", "", "plain", "hood", "long", "midi", "zip")
    seen = set()
    for _ in range(12):
        cut, view = sample_cut(rng), sample_view(rng)
        assert 0 <= view.background < len(BACKGROUNDS)
        image = pixels(draw_garment(coat, cut=cut, view=view))
        seen.add(image.tobytes())
        cloth = image.max(axis=2) < 150
        assert 0.1 < cloth.mean() < 0.7
        assert cloth[[0, -1]].mean() < 0.02
    assert len(seen) == 12


@pytest.mark.parametrize("size", [(96, 128), (128, 128), (300, 400)])
def test_other_sizes(size: tuple[int, int]) -> None:
    picture = draw_garment(DRESS, size=size)
    assert picture.size == size
    assert 0.08 < (pixels(picture)[..., 0] < 120).mean() < 0.7
