"""Which words and which patches of a batch are hidden, for masked language and patch modelling.

As in BERT (arXiv 1810.04805), with whole-word masking, and in the paper (arXiv 2005.09801, §3.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from model.errors import TrainingError

#: Share of the words hidden; the paper's.
WORD_SHARE = 0.15
#: Share of the patches hidden; the paper's. The released code hides 5 of 64.
PATCH_SHARE = 0.10
#: What a hidden token becomes: `[MASK]`, any other token, or (the rest) what it was.
_MASKED, _RANDOM = 0.8, 0.1


class WordMasker:
    """Hides whole words of texts, all pieces of a word or none.

    A text of n words has 0.15 n of them hidden, rounded up or down at random so that the mean is
    right, but at least one. As words are chosen whatever their length, the share of tokens is the
    same in the mean. Each token of a chosen word for itself becomes `[MASK]` (80 %), a token drawn
    from the vocabulary (10 %), or stays (10 %). Special tokens are never chosen and never drawn.

    Args:
        path: a `tokenizer.json`; pieces that begin with `##` continue a word.
        share: of the words, between 0 and 1.

    Raises:
        TrainingError: the file cannot be read, or its vocabulary has no `[MASK]`.
    """

    def __init__(self, path: Path, share: float = WORD_SHARE) -> None:
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise TrainingError(
                f"{path} is not a tokenizer.json that can be read: {error}"
            ) from error
        mask_id = tokenizer.token_to_id("[MASK]")
        if mask_id is None:
            raise TrainingError(
                f"{path} has no token [MASK], so no word can be hidden: train without masked "
                "language modelling (--no-mlm), or take a text backbone that has it"
            )
        self.share = share
        self.mask_id = int(mask_id)
        vocabulary = tokenizer.get_vocab()
        size = max(vocabulary.values()) + 1
        self._continues = np.zeros(size, dtype=np.bool_)
        self._continues[[i for piece, i in vocabulary.items() if piece.startswith("##")]] = True
        added = tokenizer.get_added_tokens_decoder()
        self._special = np.zeros(size, dtype=np.bool_)
        self._special[[i for i, token in added.items() if token.special]] = True
        self._special[self.mask_id] = True
        self._ordinary = np.array(
            sorted(i for i in vocabulary.values() if not self._special[i]), dtype=np.int64
        )

    def words(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The number of each token's word in its text, from 0; −1 for special tokens and padding.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 1 for a token, 0 for padding.

        Returns:
            int64 [B, T].
        """
        ordinary = (attention_mask > 0) & ~self._special[input_ids]
        before = np.zeros_like(ordinary)
        before[:, 1:] = ordinary[:, :-1]
        starts = ordinary & ~(self._continues[input_ids] & before)
        return np.where(ordinary, starts.cumsum(axis=1) - 1, -1).astype(np.int64)

    def mask(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Hide words of a batch of texts.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 1 for a token, 0 for padding.
            rng: of the batch.

        Returns:
            The texts with words hidden, int64 [B, T], and the tokens to be told, bool [B, T].
        """
        words = self.words(input_ids, attention_mask)
        counts = words.max(axis=1, initial=-1) + 1
        quota = np.maximum(1, np.floor(self.share * counts + rng.random(len(counts))))
        # One column more than words, which is never chosen: −1 points to it.
        noise = rng.random((len(words), int(counts.max(initial=0)) + 1))
        noise[np.arange(noise.shape[1]) >= counts[:, None]] = np.inf
        ranks = noise.argsort(axis=1).argsort(axis=1)
        picked = (ranks < quota[:, None]) & np.isfinite(noise)
        chosen = np.take_along_axis(picked, words % noise.shape[1], axis=1)

        fate = rng.random(words.shape)
        drawn = rng.choice(self._ordinary, words.shape)
        hidden = np.where(chosen & (fate < _MASKED), self.mask_id, input_ids)
        replaced = chosen & (fate >= _MASKED) & (fate < _MASKED + _RANDOM)
        return np.where(replaced, drawn, hidden), chosen


def mask_patches(
    batch: int, patches: int, share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which patches are hidden: bool [B, P], max(1, round(share · P)) in each row.

    Args:
        batch: B.
        patches: P.
        share: between 0 and 1.
        rng: of the batch.
    """
    count = max(1, round(share * patches))
    return rng.random((batch, patches)).argsort(axis=1) < count


@dataclass(frozen=True, slots=True)
class Masking:
    """What a training hides.

    `words`: hides words, or None for no masked language modelling; `patches`: P for masked patch
    modelling, or 0 for none.
    """

    words: WordMasker | None = None
    patches: int = 0
