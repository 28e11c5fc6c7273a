"""Whether texts can be told apart, also as a network reads them: by their tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model.dataset import number_by_tokens
from model.errors import TrainingError
from model.holdout import uncased
from model.preprocess import TextTokenizer, TokenBatch
from model.product import Catalogue

#: Share of texts above which what is wrong with them is worth a word.
_WORTH_A_WORD = 0.05
#: Pieces a word above which its language is hardly the vocabulary's: English is 1.2 to 1.3 to
#: MiniLM, German 2.6 and Russian 5.
_MANY_PIECES = 2.0


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
            or else of those that are cut, and of texts without a word of the vocabulary, if they
            are more than 5 %; and of a vocabulary that makes more than two pieces of a word.

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
    elif (cut := float(tokens.truncated.mean())) > _WORTH_A_WORD:
        note(
            f"{what}: {cut:.0%} of the texts are longer than the {max_tokens} tokens that the "
            "model reads, and what stands last is cut: put what matters most first in --text"
        )
    pieces, starts = _pieces(tokens, tokenizer)
    unknown = float((~pieces.any(axis=1)).mean())
    if unknown > _WORTH_A_WORD:
        note(
            f"{what}: {unknown:.0%} of the texts have no word that the model's vocabulary knows: "
            "look at --text, or start from a --text-backbone of their language"
        )
    each = pieces.sum() / max(1, starts.sum())
    if each > _MANY_PIECES:
        note(
            f"{what}: the model's vocabulary cuts a word into {each:.1f} pieces on average, as it "
            "does with another language than its own: start from a --text-backbone of the texts'"
        )


def _pieces(tokens: TokenBatch, tokenizer: Path) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which tokens [N, T] have a letter or a digit, `[UNK]` and the like having none, and which
    of these begin a word."""
    vocabulary = Tokenizer.from_file(str(tokenizer)).get_vocab()
    size = max(vocabulary.values(), default=-1) + 1
    is_piece, goes_on = np.zeros(size, dtype=np.bool_), np.zeros(size, dtype=np.bool_)
    for token, number in vocabulary.items():
        special = token.startswith("[") and token.endswith("]")
        is_piece[number] = not special and any(map(str.isalnum, token))
        goes_on[number] = token.startswith("##")
    pieces = is_piece[tokens.input_ids] & (tokens.attention_mask > 0)
    return pieces, pieces & ~goes_on[tokens.input_ids]
