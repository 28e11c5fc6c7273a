"""What a text must be before it is searched with."""

from __future__ import annotations

from model.errors import TextError
from model.preprocess import check_text


def check_query(text: str, max_characters: int) -> str:
    """The text without blanks at its ends.

    Raises:
        TextError: it is empty, longer than `max_characters`, or holds half a character: JSON's
            `\\ud800`, or a byte of a command line that is not UTF-8.
    """
    text = check_text(text, max_characters)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"the text is no valid Unicode at character {error.start + 1}: send it as UTF-8",
            code="invalid_text",
        ) from error
    return text
