"""Whether texts can be told apart, also as a network reads them: by their tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model.catalogue import Catalogue
from model.dataset import number_by_tokens
from model.errors import TrainingError
from model.holdout import uncased
from model.preprocess import TextTokenizer, TokenBatch

#: Share of texts above which what is wrong with them is worth a word.
_WORTH_A_WORD = 0.05


def check_texts(what: str, catalogue: Catalogue) -> None:
    """Refuse products that all have one text.

    Args:
        what: begins the message, such as "the feed has".
        catalogue: the products.

    Raises:
        TrainingError: fewer than two different texts.
    """
    texts = {product.text for product in catalogue.products}
    if len(texts) < 2:
        raise TrainingError(
            f"{what} {len(catalogue)} products with {len(texts)} different texts: "
            "there is nothing to tell apart; give at least 2"
        )


def check_tokens(
    what: str,
    catalogue: Catalogue,
    tokenizer: Path,
    max_tokens: int,
    note: Callable[[str], None],
) -> None:
    """Refuse products whose texts are all one to the network; tell of many that are.

    Args:
        what: names the products in messages, such as "the feed".
        catalogue: the products.
        tokenizer: path of a `tokenizer.json`.
        max_tokens: texts are cut to this.
        note: told of texts that read the same though they differ in more than capitals and space,
            and of texts without a word of the vocabulary, if they are more than 5 %.

    Raises:
        TrainingError: fewer than two different rows of tokens.
    """
    texts = [product.text for product in catalogue.products]
    tokens = TextTokenizer(tokenizer, max_tokens).encode(texts)
    different = int(number_by_tokens(tokens).max(initial=-1)) + 1
    if different < 2:
        raise TrainingError(
            f"{what}: all {len(texts)} texts read the same in the first {max_tokens} tokens, or "
            "are unknown to this vocabulary, so there is nothing to tell apart: put what differs "
            "first in --text, or start from a --text-backbone that knows their words"
        )
    written = len({uncased(text) for text in texts})
    merged = 1 - different / max(written, different)
    if merged > _WORTH_A_WORD:
        note(
            f"{what}: {written:,} texts are {different:,} to the model ({merged:.0%} fewer), as it "
            f"reads {max_tokens} tokens, and of words that it does not know only that they are "
            "there; products that read the same are never told apart"
        )
    unknown = float((~_has_words(tokens, tokenizer)).mean())
    if unknown > _WORTH_A_WORD:
        note(
            f"{what}: {unknown:.0%} of the texts have no word that the model's vocabulary knows: "
            "look at --text, or start from a --text-backbone of their language"
        )


def _has_words(tokens: TokenBatch, tokenizer: Path) -> NDArray[np.bool_]:
    """Which texts [N] have a token with a letter or a digit; `[UNK]` and the like are none."""
    vocabulary = Tokenizer.from_file(str(tokenizer)).get_vocab()
    is_word = np.zeros(max(vocabulary.values(), default=-1) + 1, dtype=np.bool_)
    for token, number in vocabulary.items():
        special = token.startswith("[") and token.endswith("]")
        is_word[number] = not special and any(map(str.isalnum, token))
    words = is_word[tokens.input_ids] & (tokens.attention_mask > 0)
    return np.asarray(words.any(axis=1))
