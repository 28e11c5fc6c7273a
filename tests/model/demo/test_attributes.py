from itertools import combinations

import numpy as np

from model.demo.attributes import (
    COLOURS,
    FASTENINGS,
    GARMENT_TYPES,
    LENGTHS,
    NECKLINES,
    OFF_SHOULDER_SLEEVES,
    PATTERNS,
    SECOND_COLOUR_DISTANCE,
    SLEEVES,
    STRAPPY_NECKLINES,
    colour_distance,
    lab,
    sample_garment,
)

SAMPLES = [sample_garment(rng) for rng in [np.random.default_rng(5)] for _ in range(6000)]


def test_the_vocabulary_has_the_promised_size() -> None:
    assert len(GARMENT_TYPES) >= 12
    assert len(COLOURS) == 24
    assert set(PATTERNS) == {"plain", "striped", "checked", "dotted", "floral", "colour-blocked"}
    assert abs(sum(PATTERNS.values()) - 1) < 1e-9


def test_lab_of_known_colours() -> None:
    # Reference values: sRGB primaries in CIE Lab, D65.
    np.testing.assert_allclose(lab((255, 255, 255)), [100, 0, 0], atol=0.1)
    np.testing.assert_allclose(lab((255, 0, 0)), [53.24, 80.09, 67.20], atol=0.1)
    np.testing.assert_allclose(lab((0, 0, 255)), [32.30, 79.19, -107.86], atol=0.1)


def test_colours_are_well_apart() -> None:
    assert min(colour_distance(a, b) for a, b in combinations(COLOURS, 2)) >= 24


def test_samples_stay_within_their_type() -> None:
    for garment in SAMPLES:
        kind = GARMENT_TYPES[garment.product_type]
        assert garment.neckline in (kind.necklines or ("",))
        assert garment.sleeve in (kind.sleeves or ("",))
        assert garment.length in kind.lengths
        assert garment.fastening in kind.fastenings


def test_samples_cover_the_vocabulary() -> None:
    assert {g.product_type for g in SAMPLES} == set(GARMENT_TYPES)
    assert {g.colour for g in SAMPLES} == set(COLOURS)
    assert {g.second_colour for g in SAMPLES} == {"", *COLOURS}
    assert {g.pattern for g in SAMPLES} == set(PATTERNS)
    assert {g.neckline for g in SAMPLES} == {"", *NECKLINES}
    assert {g.sleeve for g in SAMPLES} == {"", *SLEEVES}
    assert {g.length for g in SAMPLES} == set(LENGTHS)
    assert {g.fastening for g in SAMPLES} == set(FASTENINGS)


def test_every_choice_of_every_type_comes_up() -> None:
    for kind in GARMENT_TYPES.values():
        of_kind = [g for g in SAMPLES if g.product_type == kind.name]
        assert {g.neckline for g in of_kind} == set(kind.necklines or ("",))
        assert {g.sleeve for g in of_kind} == set(kind.sleeves or ("",))
        assert {g.length for g in of_kind} == set(kind.lengths)
        assert {g.fastening for g in of_kind} == set(kind.fastenings)


def test_a_second_colour_goes_with_a_pattern_and_shows() -> None:
    for garment in SAMPLES:
        assert (garment.second_colour == "") == (garment.pattern == "plain")
        if garment.second_colour:
            distance = colour_distance(garment.colour, garment.second_colour)
            assert distance >= SECOND_COLOUR_DISTANCE


def test_impossible_combinations_do_not_come_up() -> None:
    for garment in SAMPLES:
        if garment.sleeve == "strappy":
            assert garment.neckline in STRAPPY_NECKLINES
        if garment.neckline == "off-the-shoulder":
            assert garment.sleeve in OFF_SHOULDER_SLEEVES
            assert garment.fastening != "buttons"
