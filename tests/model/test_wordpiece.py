from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from model.errors import TrainingError
from model.wordpiece import SPECIAL_TOKENS, backbone_tokenizer, save_tokenizer, train_wordpiece

TEXTS = [
    "A red dress with long sleeves and a round neck.",
    "A blue coat, buttoned; with two pockets",
    "Striped trousers with a zip",
    "Une robe d'été à rayures",
    "夏の服",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_wordpiece(TEXTS, vocab_size=300)


def test_special_tokens_come_first(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]


def test_texts_are_framed_as_bert_does(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("a red dress").tokens
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert tokenizer.encode("").tokens == ["[CLS]", "[SEP]"]
    pair = tokenizer.encode("red", "coat")
    assert pair.tokens.count("[SEP]") == 2
    assert pair.type_ids[0] == 0
    assert pair.type_ids[-1] == 1


def test_what_it_was_trained_on_is_known_and_comes_back(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        assert "[UNK]" not in tokenizer.encode(text).tokens
    assert tokenizer.decode(tokenizer.encode("striped trousers").ids) == "striped trousers"
    assert "[UNK]" in tokenizer.encode("☂").tokens


def test_case_and_accents_do_not_count(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("une robe d'ete a rayures").ids
    assert tokenizer.encode("UNE Robe d'Été à rayures").ids == ids


def test_the_vocabulary_is_at_most_as_large_as_asked_for() -> None:
    small = train_wordpiece(TEXTS, vocab_size=70)
    assert small.get_vocab_size() <= 70
    assert train_wordpiece(TEXTS, vocab_size=100_000).get_vocab_size() < 1000
    letters = train_wordpiece(TEXTS, vocab_size=10)  # all of them, however many they are
    assert letters.get_vocab_size() > 10
    assert not any("[UNK]" in letters.encode(text).tokens for text in TEXTS)
    assert train_wordpiece(iter([]), vocab_size=10).get_vocab_size() == len(SPECIAL_TOKENS)


def test_saved_and_read_again_it_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    save_tokenizer(tokenizer, path)
    again = Tokenizer.from_file(str(path))
    assert [e.ids for e in again.encode_batch(TEXTS)] == [
        e.ids for e in tokenizer.encode_batch(TEXTS)
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_padding_and_truncation_are_not_saved(tmp_path: Path) -> None:
    used = train_wordpiece(TEXTS, vocab_size=100)
    used.enable_padding(length=40)
    used.enable_truncation(4)
    save_tokenizer(used, tmp_path / "tokenizer.json")
    fields = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert (fields["padding"], fields["truncation"]) == (None, None)


def test_a_save_that_fails_leaves_nothing_behind(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(TrainingError, match=r"tokenizer\.json cannot be written .*make room"):
        save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_a_backbones_own_tokenizer_is_taken(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path / "tokenizer.json")
    taken = backbone_tokenizer(str(tmp_path))
    assert taken.get_vocab() == tokenizer.get_vocab()


def test_a_backbone_with_a_vocabulary_only_is_converted(tmp_path: Path) -> None:
    words = [*SPECIAL_TOKENS, "red", "dress", "##es", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    converted = backbone_tokenizer(str(tmp_path))
    encoded = converted.encode("A red Dresses")
    assert encoded.tokens == ["[CLS]", "a", "red", "dress", "##es", "[SEP]"]
    assert encoded.ids == [2, 8, 5, 6, 7, 3]


def test_the_same_texts_give_the_same_tokenizer() -> None:
    texts = [f"striped cotton dress number {number} in blue-green" for number in range(40)]
    first, again = (train_wordpiece(texts, 150).to_str() for _ in range(2))
    assert first == again


def test_a_letter_inside_a_word_is_no_special_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("##e").tokens != ["[CLS]", "##e", "[SEP]"]
    added = json.loads(tokenizer.to_str())["added_tokens"]
    assert [token["content"] for token in added] == list(SPECIAL_TOKENS)


@pytest.mark.parametrize("source", ["/no/such/folder", "nobody/has-this"])
def test_a_backbone_that_cannot_be_reached(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TrainingError, match=f"text backbone '{source}' cannot be loaded"):
        backbone_tokenizer(source)


def test_a_backbone_without_its_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(TrainingError, match=r"has no tokenizer\.json or vocab\.txt: download"):
        backbone_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TrainingError, match="cannot be loaded"):
        backbone_tokenizer(str(tmp_path))
