"""Tokenisers: a WordPiece of one's own from a feed's texts, or the one beside a text backbone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import WordPieceTrainer

from model.errors import TrainingError
from model.files import write_atomically

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_wordpiece(texts: Iterable[str], vocab_size: int = 4000) -> Tokenizer:
    """Learn an uncased WordPiece, BERT's way, from texts; the same texts give the same.

    Args:
        texts: what the model will be trained on.
        vocab_size: at most this many tokens, but the special ones and all letters of the texts,
            as the first of a word and inside one, are kept however many they are; a small feed
            gives fewer.
    """
    texts = list(texts)
    tokenizer = _untrained()
    # The trainer numbers the letters inside words in a random order, on which ties then depend,
    # unless it knows them before.
    letters = {
        letter
        for text in texts
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(
            tokenizer.normalizer.normalize_str(text)
        )
        for letter in word[1:]
    }
    first = [*SPECIAL_TOKENS, *(f"##{letter}" for letter in sorted(letters))]
    trainer = WordPieceTrainer(vocab_size=vocab_size, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    # Anew from the vocabulary alone: a letter inside a word is no special token.
    tokenizer = _untrained(tokenizer.get_vocab())
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _untrained(vocabulary: dict[str, int] | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def backbone_tokenizer(source: str) -> Tokenizer:
    """The `tokenizer.json` of a text backbone, by hub id or local directory.

    Raises:
        TrainingError: there is none that can be loaded.
    """
    file = Path(source) / "tokenizer.json"
    try:
        if file.is_file():
            return Tokenizer.from_file(str(file))
        # Older directories hold a vocab.txt only: transformers converts it.
        from transformers import AutoTokenizer

        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(source).backend_tokenizer
    except Exception as error:  # tokenizers raises bare Exception
        raise TrainingError(
            f"the tokenizer of the text backbone {source!r} cannot be loaded "
            f"({str(error).splitlines()[0]}): give a hub id that can be reached, or a local "
            "directory in transformers' format"
        ) from error
    if tokenizer.get_vocab_size() <= len(SPECIAL_TOKENS):  # what transformers makes of no file
        raise TrainingError(
            f"the text backbone {source!r} has no tokenizer.json or vocab.txt: download it again"
        )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write `tokenizer.json`, without the padding and truncation of some earlier use.

    Raises:
        TrainingError: it cannot be written.
    """
    tokenizer.no_padding()
    tokenizer.no_truncation()
    try:
        write_atomically(path, tokenizer.to_str(pretty=True).encode())
    except OSError as error:
        raise TrainingError(f"{path} cannot be written ({error}): make room") from error
