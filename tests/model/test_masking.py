from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from model.augmentation import Augmentation
from model.dataset import TrainingSet
from model.errors import TrainingError
from model.inputs import ImageInputs
from model.masking import Masking, WordMasker, mask_patches
from model.preprocess import TextTokenizer
from model.product import Catalogue
from model.wordpiece import SPECIAL_TOKENS, save_tokenizer

Ids = NDArray[np.int64]
#: Words of one, two and three pieces.
PIECES = ("red", "coat", "slee", "##ve", "bu", "##tt", "##on", "hat", "scarf", "belt")
LONG = "red coat sleeve button hat scarf belt red hat coat"  # 10 words, 13 pieces


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vocabulary = {piece: number for number, piece in enumerate((*SPECIAL_TOKENS, *PIECES))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    path = tmp_path_factory.mktemp("wordpiece") / "tokenizer.json"
    save_tokenizer(tokenizer, path)
    return path


def encoded(path: Path, texts: list[str], repeats: int = 1) -> tuple[Ids, Ids]:
    tokens = TextTokenizer(path, 48).encode(texts * repeats)
    return tokens.input_ids, tokens.attention_mask


def test_words_are_numbered(wordpiece: Path) -> None:
    ids, mask = encoded(wordpiece, ["red sleeve button", "belt velvet red", "belt"])
    assert WordMasker(wordpiece).words(ids, mask).tolist() == [
        [-1, 0, 1, 1, 2, 2, 2, -1],
        [-1, 0, -1, 1, -1, -1, -1, -1],  # velvet is unknown
        [-1, 0, -1, -1, -1, -1, -1, -1],
    ]
    # Padding is what the mask says, whatever stands there; and a text may begin inside a word, or
    # go on inside one after an unknown one.
    odd = np.array([[8, 8, 5, 1, 8, 5]]), np.array([[1, 1, 1, 1, 1, 0]])
    assert WordMasker(wordpiece).words(*odd).tolist() == [[0, 0, 1, -1, 2, -1]]


def test_whole_words_of_15_percent(wordpiece: Path) -> None:
    ids, mask = encoded(wordpiece, [LONG], 20_000)
    masker = WordMasker(wordpiece)
    hidden, chosen = masker.mask(ids, mask, np.random.default_rng(0))
    words = masker.words(ids, mask)[0]
    picked = np.stack([chosen[:, words == word].all(axis=1) for word in range(10)])
    partly = np.stack([chosen[:, words == word].any(axis=1) for word in range(10)])
    assert np.array_equal(picked, partly)
    assert picked.mean(axis=1) == pytest.approx(0.15, abs=0.01)  # each word as often as the next
    assert chosen[:, 1:14].mean() == pytest.approx(0.15, abs=0.003)
    assert set(picked.sum(axis=0).tolist()) == {1, 2}
    # What is not chosen stays; [CLS], [SEP] always do.
    assert np.array_equal(hidden[~chosen], ids[~chosen])
    assert not chosen[:, [0, 14]].any()


def test_80_10_10(wordpiece: Path) -> None:
    ids, mask = encoded(wordpiece, [LONG], 20_000)
    hidden, chosen = WordMasker(wordpiece).mask(ids, mask, np.random.default_rng(1))
    after, before = hidden[chosen], ids[chosen]
    assert (after == 4).mean() == pytest.approx(0.8, abs=0.01)
    # One of the ten tokens that may be drawn is the one that was there.
    assert (after == before).mean() == pytest.approx(0.1 + 0.1 / 10, abs=0.01)
    other = after[(after != 4) & (after != before)]
    counts = np.bincount(other, minlength=15)
    assert not counts[:5].any()  # no special token is drawn
    assert (counts[5:] > 0).all()
    # Each token of a word has a fate of its own.
    button = hidden[:, 5:8][chosen[:, 5]] == 4
    assert 0.3 < (button.any(axis=1) & ~button.all(axis=1)).mean() < 0.6  # 1 − .8³ − .2³ = .48


def deviation(counts: NDArray[np.int64], shares: NDArray[np.float64]) -> float:
    """Pearson's χ² of counts against their shares, in standard deviations from its mean."""
    expected = shares * counts.sum()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    freedom = len(counts) - 1
    return (statistic - freedom) / (2 * freedom) ** 0.5


def test_every_pair_of_words_is_as_likely(wordpiece: Path) -> None:
    ids, mask = encoded(wordpiece, [LONG], 20_000)
    masker = WordMasker(wordpiece)
    _, chosen = masker.mask(ids, mask, np.random.default_rng(3))
    first_piece = np.flatnonzero(np.diff(masker.words(ids, mask)[0], prepend=-1) > 0)
    words = chosen[:, first_piece]
    assert words.shape == (20_000, 10)
    two = words[words.sum(axis=1) == 2]
    assert len(two) == pytest.approx(10_000, abs=300)  # 1.5 words of 10, one or two
    left, right = np.triu_indices(10, 1)
    together = (two[:, left] & two[:, right]).sum(axis=0)
    assert abs(deviation(together, np.full(45, 1 / 45))) < 4


def test_fates_and_drawn_tokens_follow_their_shares(wordpiece: Path) -> None:
    ids, mask = encoded(wordpiece, [LONG], 20_000)
    hidden, chosen = WordMasker(wordpiece).mask(ids, mask, np.random.default_rng(4))
    belt = 5 + PIECES.index("belt")
    after = hidden[chosen & (ids == belt)]
    counts = np.array([(after == 4).sum(), (after == belt).sum(), 0])
    counts[2] = len(after) - counts.sum()
    assert abs(deviation(counts, np.array([0.8, 0.11, 0.09]))) < 4
    others = [5 + at for at, piece in enumerate(PIECES) if piece != "belt"]
    drawn = np.bincount(after, minlength=15)[others]
    assert abs(deviation(drawn, np.full(9, 1 / 9))) < 4


def test_every_text_with_a_word_has_one_hidden(wordpiece: Path) -> None:
    texts = ["red", "button", "red coat", "velvet", "velvet red", LONG]
    ids, mask = encoded(wordpiece, texts, 300)
    masker = WordMasker(wordpiece)
    _, chosen = masker.mask(ids, mask, np.random.default_rng(2))
    words = masker.words(ids, mask)
    assert np.array_equal(chosen.any(axis=1), (words >= 0).any(axis=1))
    assert not chosen[words < 0].any()
    assert chosen[0::6, 1].all()
    assert chosen[1::6, 1:4].all()
    assert chosen[2::6].sum(axis=1).tolist() == [1] * 300


def test_nothing_to_hide(wordpiece: Path) -> None:
    ids, mask = encoded(wordpiece, ["velvet", ""])
    hidden, chosen = WordMasker(wordpiece).mask(ids, mask, np.random.default_rng(0))
    assert np.array_equal(hidden, ids)
    assert not chosen.any()


def test_the_generator_decides(wordpiece: Path) -> None:
    ids, mask = encoded(wordpiece, [LONG], 8)
    before = ids.copy()
    first, again, other = (
        WordMasker(wordpiece).mask(ids, mask, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])
    assert np.array_equal(ids, before)


def test_a_vocabulary_without_mask_is_refused(wordpiece: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "red": 1}, unk_token="[UNK]"))
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    with pytest.raises(TrainingError, match=r"has no token \[MASK\].*--no-mlm"):
        WordMasker(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TrainingError, match=r"is not a tokenizer\.json that can be read"):
        WordMasker(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("patches", "share", "count"), [(64, 0.1, 6), (64, 5 / 64, 5), (4, 0.1, 1), (10, 1.0, 10)]
)
def test_patches_are_hidden(patches: int, share: float, count: int) -> None:
    hidden = mask_patches(3000, patches, share, np.random.default_rng(0))
    assert hidden.shape == (3000, patches)
    assert hidden.dtype == np.bool_
    assert (hidden.sum(axis=1) == count).all()
    assert hidden.mean(axis=0) == pytest.approx(count / patches, abs=0.04)
    again = mask_patches(3000, patches, share, np.random.default_rng(0))
    assert np.array_equal(hidden, again)


def test_every_pair_of_patches_is_as_likely() -> None:
    hidden = mask_patches(20_000, 64, 0.1, np.random.default_rng(0)).astype(np.int64)
    together = (hidden.T @ hidden)[np.triu_indices(64, 1)]
    assert together.sum() == 20_000 * 15  # six patches are 15 pairs
    assert abs(deviation(together, np.full(2016, 1 / 2016))) < 4


def test_each_epoch_hides_something_else_of_a_product(learn: Catalogue, tokenizer: Path) -> None:
    views = sum(len(product.images) for product in learn.products)
    inputs = ImageInputs(np.zeros((views, 16, 16, 3), np.uint8))
    masker = WordMasker(tokenizer)
    products = TrainingSet(learn, inputs, tokenizer, 48, masking=Masking(masker, 16))
    words: dict[int, list[set[int]]] = {}
    patches: dict[int, list[set[int]]] = {}
    for epoch in range(100):
        for batch in products.batches(epoch, batch_size=32, same_group=0.0, seed=3):
            assert batch.masked_tokens is not None
            assert batch.masked_patches is not None
            for row, number in enumerate(batch.text_numbers.tolist()):
                at = np.flatnonzero(batch.masked_tokens[row].numpy())
                words.setdefault(number, []).append(set(at.tolist()))
                at = np.flatnonzero(batch.masked_patches[row].numpy())
                patches.setdefault(number, []).append(set(at.tolist()))
    # What one epoch hides says nothing about what the next one does.
    for draws, share, tolerance in ((words, 0.15, 0.03), (patches, 2 / 16, 0.01)):
        pairs = [pair for drawn in draws.values() for pair in pairwise(drawn)]
        again = sum(len(one & later) for one, later in pairs) / sum(len(one) for one, _ in pairs)
        assert again == pytest.approx(share, abs=tolerance)
    # In the end every word and every patch has been hidden.
    numbers = masker.words(products.input_ids, products.attention_mask)
    for row, text in enumerate(products.text_numbers.tolist()):
        assert set.union(*words[text]) == set(np.flatnonzero(numbers[row] >= 0).tolist())
        assert set.union(*patches[text]) == set(range(16))


def test_batches_hide_anew_and_draw_the_rest_as_before(learn: Catalogue, tokenizer: Path) -> None:
    views = sum(len(product.images) for product in learn.products)
    inputs = ImageInputs(np.random.default_rng(0).integers(0, 256, (views, 16, 16, 3), np.uint8))

    def batches(masking: Masking | None, epoch: int = 0, start: int = 0) -> list[list[Ids | None]]:
        products = TrainingSet(learn, inputs, tokenizer, 48, title_share=0.5, masking=masking)
        found = products.batches(
            epoch, batch_size=32, same_group=0.0, seed=3, augmentation=Augmentation(), start=start
        )
        return [
            [
                None if value is None else value.numpy()
                for value in (
                    batch.input_ids,
                    batch.images["pixels"],
                    batch.masked_ids,
                    batch.masked_tokens,
                    batch.masked_patches,
                )
            ]
            for batch in found
        ]

    plain = batches(None)
    both = batches(Masking(WordMasker(tokenizer), 16))
    resumed = batches(Masking(WordMasker(tokenizer), 16), start=1)
    later = batches(Masking(WordMasker(tokenizer), 16), epoch=1)
    assert len(plain) == len(both) == 3
    for without, with_both in zip(plain, both, strict=True):
        assert without[2:] == [None, None, None]
        for ours, theirs in zip(without[:2], with_both[:2], strict=True):
            assert np.array_equal(ours, theirs)
        ids, _, hidden, tokens, patches = with_both
        assert ids is not None
        assert hidden is not None
        assert tokens is not None
        assert patches is not None
        assert ids.shape == hidden.shape == tokens.shape
        assert tokens.any(axis=1).all()
        assert np.array_equal(ids[~tokens], hidden[~tokens])
        assert (patches.sum(axis=1) == 2).all()
    for whole, rest in zip(both[1:], resumed, strict=True):
        for ours, theirs in zip(whole, rest, strict=True):
            assert np.array_equal(ours, theirs)
    assert not np.array_equal(both[0][4], later[0][4])
    words_only = batches(Masking(WordMasker(tokenizer)))
    assert np.array_equal(words_only[0][2], both[0][2])
    assert words_only[0][4] is None
