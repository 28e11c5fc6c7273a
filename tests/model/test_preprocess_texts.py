"""Texts: what is refused, and how the rest is tokenised."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from model.errors import BundleError, TextError
from model.preprocess import TextTokenizer, check_text
from model.wordpiece import save_tokenizer, train_wordpiece


def test_texts_lose_the_blanks_at_their_ends() -> None:
    assert check_text(" \t red  dress\n\u3000") == "red  dress"
    assert check_text("👗 été", max_characters=5) == "👗 été"


@pytest.mark.parametrize(
    "text", ["", " ", "\n\t\u3000", "\u200b", "\0 \ufeff", "\ufe0f", "\u0301 \u200d"]
)
def test_empty_texts_are_refused(text: str) -> None:
    with pytest.raises(TextError) as caught:
        check_text(text)
    assert caught.value.code == "empty_text"


def test_long_texts_are_refused() -> None:
    assert check_text(" " + "a" * 10 + " ", max_characters=10) == "a" * 10
    with pytest.raises(TextError, match="11 characters, at most 10") as caught:
        check_text("a" * 11, max_characters=10)
    assert caught.value.code == "text_too_long"
    with pytest.raises(TextError):
        check_text("a" * 5001)


@pytest.mark.parametrize("text", ["red \ud800", "red \udcff dress", "red \udc57\ud83d"])
def test_half_a_character_is_refused(text: str) -> None:
    with pytest.raises(TextError, match="at character 5: send it as UTF-8") as caught:
        check_text("  " + text)
    assert caught.value.code == "invalid_text"


TEXTS = ["a red dress with long sleeves", "a blue coat", "striped trousers with a zip", "dress"]


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wordpiece") / "tokenizer.json"
    save_tokenizer(train_wordpiece(TEXTS, vocab_size=200), path)
    return path


def test_batches_are_padded_to_their_longest_text(wordpiece: Path) -> None:
    tokenizer = TextTokenizer(wordpiece, 32)
    alone = [tokenizer.encode([text]) for text in TEXTS]
    batch = tokenizer.encode(TEXTS)
    lengths = [one.input_ids.shape[1] for one in alone]
    assert len(set(lengths)) > 1
    assert batch.input_ids.shape == batch.attention_mask.shape == (4, max(lengths))
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64
    assert batch.attention_mask.sum(axis=1).tolist() == lengths
    for row, (one, length) in enumerate(zip(alone, lengths, strict=True)):
        np.testing.assert_array_equal(batch.input_ids[row, :length], one.input_ids[0])
        assert (batch.input_ids[row, length:] == tokenizer.pad_id).all()
        assert (batch.attention_mask[row] == (np.arange(max(lengths)) < length)).all()
    assert not batch.truncated.any()


def test_long_texts_are_cut_and_say_so(wordpiece: Path) -> None:
    whole = TextTokenizer(wordpiece, 100).encode(TEXTS)
    length = int(whole.attention_mask[0].sum())
    exact = TextTokenizer(wordpiece, length).encode(TEXTS)
    assert not exact.truncated[0]
    cut = TextTokenizer(wordpiece, length - 1).encode(TEXTS)
    assert cut.truncated.tolist() == (whole.attention_mask.sum(axis=1) >= length).tolist()
    assert cut.input_ids.shape[1] == length - 1
    first, last = whole.input_ids[0, 0], whole.input_ids[0, length - 1]
    np.testing.assert_array_equal(cut.input_ids[0, :-1], whole.input_ids[0, : length - 2])
    assert cut.input_ids[0, 0] == first  # [CLS]
    assert cut.input_ids[0, -1] == last  # [SEP]


def test_no_texts_and_texts_of_no_words(wordpiece: Path) -> None:
    tokenizer = TextTokenizer(wordpiece, 16)
    nothing = tokenizer.encode([])
    assert nothing.input_ids.shape == (0, 0)
    assert nothing.truncated.shape == (0,)
    assert tokenizer.encode(["\u200b"]).attention_mask.tolist() == [[1, 1]]


def test_padding_and_truncation_left_in_the_file_do_not_count(
    wordpiece: Path, tmp_path: Path
) -> None:
    other = Tokenizer.from_file(str(wordpiece))
    other.enable_padding(length=50)
    other.enable_truncation(3)
    other.save(str(tmp_path / "t.json"))
    ours, theirs = (
        TextTokenizer(path, 16).encode(TEXTS) for path in (wordpiece, tmp_path / "t.json")
    )
    np.testing.assert_array_equal(ours.input_ids, theirs.input_ids)
    assert not theirs.truncated.any()


def test_the_padding_id_is_the_vocabularys(tmp_path: Path, wordpiece: Path) -> None:
    text = wordpiece.read_text()
    assert text.count('"[PAD]": 0') == 1
    assert '"id": 0,' in text
    text = text.replace('"[PAD]": 0', '"[PAD]": 1').replace('"[UNK]": 1', '"[UNK]": 0')
    text = text.replace('"id": 0,', '"id": -1,').replace('"id": 1,', '"id": 0,')
    (tmp_path / "t.json").write_text(text.replace('"id": -1,', '"id": 1,'))
    tokenizer = TextTokenizer(tmp_path / "t.json", 16)
    assert tokenizer.pad_id == 1
    batch = tokenizer.encode(TEXTS)
    assert (batch.input_ids[batch.attention_mask == 0] == 1).all()


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for data in (None, b"", b"{}", b"\xff\xfe"):
        path = tmp_path / "tokenizer.json"
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer\.json that"):
            TextTokenizer(path, 16)


def test_tokenising_on_threads_gives_the_same(wordpiece: Path) -> None:
    tokenizer = TextTokenizer(wordpiece, 16)
    expected = tokenizer.encode(TEXTS).input_ids
    with ThreadPoolExecutor(8) as threads:
        for batch in threads.map(lambda _: tokenizer.encode(TEXTS), range(40)):
            np.testing.assert_array_equal(batch.input_ids, expected)
