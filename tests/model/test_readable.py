from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from model.errors import TrainingError
from model.product import Catalogue
from model.readable import check_tokens
from model.train import Trainer

if TYPE_CHECKING:
    from tests.model.conftest import Shop

#: Emoji that no word of the drawn garments' vocabulary is made of.
SIGNS = [chr(0x1F400 + number) for number in range(20)]


def with_texts(catalogue: Catalogue, texts: list[str]) -> Catalogue:
    products = [
        dataclasses.replace(product, text=text, title=text)
        for product, text in zip(catalogue.products, texts, strict=False)
    ]
    return dataclasses.replace(catalogue, products=products, fingerprint="texts")


def notes_of(catalogue: Catalogue, tokenizer: Path, max_tokens: int = 48) -> list[str]:
    notes: list[str] = []
    check_tokens("the feed", catalogue, tokenizer, max_tokens, notes.append)
    return notes


@pytest.mark.parametrize(
    "texts",
    [
        [f"{one}. {other}" for one, other in zip(SIGNS, reversed(SIGNS), strict=True)],
        ["a red dress with " * 20 + f"number {number}" for number in range(20)],
        ["Red dress", "red  DRESS"],
    ],
    ids=["unknown", "cut", "capitals"],
)
def test_texts_that_are_one_to_the_model(
    texts: list[str], learn: Catalogue, tokenizer: Path
) -> None:
    told = rf"^the feed: all {len(texts)} texts read the same in the first 48 tokens, or are unkn"
    with pytest.raises(TrainingError, match=told):
        notes_of(with_texts(learn, texts), tokenizer)


def test_a_share_of_such_texts_is_told(learn: Catalogue, tokenizer: Path) -> None:
    good = [f"a {colour} dress" for colour in ("red", "blue", "green", "black")] * 10
    assert notes_of(learn, tokenizer) == []
    assert notes_of(with_texts(learn, good), tokenizer) == []  # the same to the letter
    (merged,) = notes_of(
        with_texts(learn, [*good, *("red " * 60 + str(n) for n in range(4))]), tokenizer
    )
    assert merged.startswith("the feed: 8 texts are 5 to the model (38% fewer)")
    # Of 44 texts two are 5 %, three are more; signs that are one text to the letter merge nothing.
    assert notes_of(with_texts(learn, [*good, SIGNS[0], SIGNS[0]]), tokenizer) == []
    (unknown,) = notes_of(with_texts(learn, [*good, *["\u2728 !"] * 4]), tokenizer)
    assert unknown.startswith("the feed: 9% of the texts have no word that the model's vocabulary")


def test_texts_that_are_cut_are_told(learn: Catalogue, tokenizer: Path) -> None:
    good = [f"a {colour} dress" for colour in ("red", "blue", "green", "black")] * 10
    long = [f"{colour} {'red ' * 60}" for colour in ("blue", "green", "black")]  # told apart
    assert notes_of(with_texts(learn, [*good, *long[:2]]), tokenizer) == []
    (cut,) = notes_of(with_texts(learn, [*good, *long]), tokenizer)
    assert cut.startswith("the feed: 7% of the texts are longer than the 48 tokens that the model")


def test_words_in_pieces_are_told(learn: Catalogue, tokenizer: Path) -> None:
    """As those of another language are: a vocabulary has their letters, but not the words."""
    others = ["robe rouge", "jupe noire", "chemise blanche", "pull bleu"]
    (told,) = notes_of(with_texts(learn, others), tokenizer)
    assert re.match(
        r"the feed: the model's vocabulary cuts a word into [2-5]\.\d pieces on av", told
    )


def test_a_training_on_nothing_is_refused(shop: Shop, tokenizer: Path, tmp_path: Path) -> None:
    """Before a picture is read; so are products to choose by that are one to the model."""
    same = with_texts(shop.learn, ["a red dress with " * 20 + str(n) for n in range(32)])
    for learn, valid, told in (
        (same, shop.unseen, "the feed: all 32 texts read the same in the first 48 tokens"),
        (shop.learn, same, "the products to choose by: all 32 texts read the same"),
    ):
        with pytest.raises(TrainingError, match=told):
            Trainer(shop.settings, learn, valid, tmp_path / "run", cache=tmp_path / "cache")
        assert not (tmp_path / "cache").exists()


def test_a_run_tells_what_it_noted(shop: Shop, tmp_path: Path) -> None:
    some = with_texts(
        shop.learn,
        [*(p.text for p in shop.learn.products[:40]), *("red " * 60 + x for x in "abcd")],
    )
    notes: list[str] = []
    with Trainer(shop.settings, some, shop.unseen, tmp_path, cache=shop.cache, note=notes.append):
        (told,) = notes
        assert told.startswith("the feed: 44 texts are 41 to the model")
