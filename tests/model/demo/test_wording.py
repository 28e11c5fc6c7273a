import re
from dataclasses import replace

import numpy as np
import pytest

from model.demo.attributes import COLOURS, Garment, sample_garment
from model.demo.wording import FASTENING, HEM_LENGTH, NECKLINE, SLEEVE, TOP_LENGTH, describe

RNG = np.random.default_rng(9)
SAMPLES = [
    (garment, *describe(garment, RNG)) for garment in (sample_garment(RNG) for _ in range(4000))
]

COLOUR_WORDS = re.compile(r"\b(" + "|".join(sorted(COLOURS, key=len, reverse=True)) + r")\b", re.I)

# What a word in a description says about the garment: (pattern, attribute, values it is true of).
CLAIMS: list[tuple[str, str, set[str]]] = [
    (r"sleeveless|no sleeves|bare arms", "sleeve", {"sleeveless"}),
    (r"long-sleeved?|long sleeves|to the wrist|wrist-length", "sleeve", {"long"}),
    (r"three-quarter|3/4", "sleeve", {"three-quarter"}),
    (r"short-sleeved?|half sleeves", "sleeve", {"short"}),
    (r"(?<!puffed )short sleeves", "sleeve", {"short"}),
    (r"puff", "sleeve", {"puff"}),
    (r"cap sleeves", "sleeve", {"cap"}),
    (r"strap", "sleeve", {"strappy"}),
    (r"V-neck|V-shaped", "neckline", {"V-neck"}),
    (r"crew|round-neck|(?<!low )round neck", "neckline", {"crew neck"}),
    (r"scoop|low round", "neckline", {"scoop neck"}),
    (r"square", "neckline", {"square neck"}),
    (r"boat|bateau|slash", "neckline", {"boat neck"}),
    (r"off-the-shoulder|bare shoulders|Bardot", "neckline", {"off-the-shoulder"}),
    (r"roll neck|roll-neck|turtleneck|rolled neck", "neckline", {"roll neck"}),
    (r"hood", "neckline", {"hood"}),
    (r"lapel", "neckline", {"lapels"}),
    (r"stand-up collar|band collar|grandad", "neckline", {"stand collar"}),
    (r"pointed collar|classic collar|shirt collar", "neckline", {"pointed collar"}),
    (r"bow at the neck|pussy bow|neck bow", "neckline", {"pussy bow"}),
    (r"mini\b|above the knee|short leg", "length", {"mini"}),
    (r"knee-length|at the knee|to the knee|knee length|Bermuda", "length", {"knee-length"}),
    (r"midi|mid-length", "length", {"midi"}),
    (r"calf-length hem", "length", {"midi"}),
    (r"calf-length leg", "length", {"cropped"}),
    (r"maxi|ankle-length", "length", {"maxi"}),
    (r"full-length leg|long legs", "length", {"full-length"}),
    (r"cropped", "length", {"cropped"}),
    (r"longline|tunic|thigh-length", "length", {"longline"}),
    (r"regular length|hip", "length", {"regular"}),
    (r"double-breasted|two rows of buttons", "fastening", {"double-breasted"}),
    (r"half zip|half-zip|short zip|quarter zip", "fastening", {"half zip"}),
    (r"zip", "fastening", {"zip", "half zip"}),
    (r"button", "fastening", {"buttons", "button placket", "double-breasted"}),
    (r"belt|self-tie|tie-waist", "fastening", {"tie belt"}),
    (r"drawstring|tie-cord", "fastening", {"drawstring"}),
    (r"open front|open-front|without fastening", "fastening", {"open front"}),
    (r"strip", "pattern", {"striped"}),
    (r"check|gingham", "pattern", {"checked"}),
    (r"spot|\bdots\b|dotted|polka", "pattern", {"dotted"}),
    (r"flor|flower|blossom", "pattern", {"floral"}),
    (
        r"block|two-tone|half (?!sleeves|zip|placket)\w|lower half|above and",
        "pattern",
        {"colour-blocked"},
    ),
    (r"plain|solid|one colour", "pattern", {"plain"}),
    (r"sweater|jumper|pullover", "product_type", {"sweater"}),
    (r"jeans", "product_type", {"jeans"}),
    (r"pleat", "product_type", {"pleated skirt"}),
    (r"wide", "product_type", {"wide-leg trousers"}),
]


def claims(description: str) -> list[tuple[str, str, set[str]]]:
    """Return the claims a description makes."""
    text = description.replace("wide bateau", "bateau")
    return [claim for claim in CLAIMS if re.search(claim[0], text, re.I)]


def test_nothing_untrue_is_said() -> None:
    for garment, title, description in SAMPLES:
        for text in (title, description):
            for pattern, attribute, values in claims(text):
                assert getattr(garment, attribute) in values, (pattern, garment, text)


def test_the_claims_above_are_all_made() -> None:
    made = {claim[0] for _, _, description in SAMPLES for claim in claims(description)}
    assert made == {claim[0] for claim in CLAIMS}


def test_exactly_the_garments_colours_are_named() -> None:
    for garment, title, description in SAMPLES:
        own = {garment.colour, garment.second_colour} - {""}
        assert {c.lower() for c in COLOUR_WORDS.findall(description)} == own, description
        named = {c.lower() for c in COLOUR_WORDS.findall(title)}
        assert garment.colour in named
        assert named <= own


def test_most_of_what_shows_is_said() -> None:
    told, all_facts = 0, 0
    for garment, _, description in SAMPLES:
        attributes = {claim[1] for claim in claims(description)}
        facts = [name for name in ("neckline", "sleeve", "length") if getattr(garment, name)]
        if garment.product_type == "hoodie":
            facts.remove("neckline")
        if FASTENING[garment.fastening]:
            facts.append("fastening")
        told_here = sum(name in attributes for name in facts)
        told += told_here
        all_facts += len(facts)
        assert told_here >= len(facts) - 2, description
    assert told / all_facts > 0.85


def test_backgrounds_and_poses_are_not_described() -> None:
    for _, title, description in SAMPLES:
        assert not re.search(r"background|pose|photo|backdrop|turned|mirror", title + description)


def test_texts_are_well_formed() -> None:
    for _, title, description in SAMPLES:
        assert description[0].isupper()
        assert description.endswith(".")
        assert not re.search(r"  | ,|,,|\.\.|[{}]| \.", description), description
        assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n [^aeioA]", description), description
        assert title[0].isupper()
        assert len(title) <= 70
        assert 15 <= len(description) <= 300


def test_the_same_garment_is_described_in_many_ways() -> None:
    garment = Garment("dress", "navy", "white", "dotted", "V-neck", "sleeveless", "midi", "buttons")
    rng = np.random.default_rng(1)
    descriptions = [describe(garment, rng)[1] for _ in range(300)]
    assert len(set(descriptions)) > 250
    joined = " ".join(descriptions)
    for word in (
        "polka",
        "spot",
        "dotted",
        "no sleeves",
        "sleeveless",
        "midi",
        "mid-length",
        "calf",
    ):
        assert word in joined, word


def test_the_same_stream_gives_the_same_words() -> None:
    garment = Garment("shirt", "red", "", "plain", "stand collar", "long", "regular", "buttons")
    first = describe(garment, np.random.default_rng(4))
    assert first == describe(garment, np.random.default_rng(4))


def test_a_title() -> None:
    garment = Garment("shirt", "navy", "", "plain", "stand collar", "long", "regular", "buttons")
    assert describe(garment, RNG)[0] == "Navy shirt"
    titles = {
        describe(replace(garment, pattern="striped", second_colour="white"), RNG)[0]
        for _ in range(40)
    }
    assert titles == {"Navy striped shirt", "Navy and white striped shirt"}


@pytest.mark.parametrize("table", [NECKLINE, SLEEVE, TOP_LENGTH, HEM_LENGTH])
def test_synonyms_do_not_overlap(table: dict[str, tuple[str, ...]]) -> None:
    phrases = [phrase for synonyms in table.values() for phrase in synonyms]
    assert len(phrases) == len(set(phrases))
