"""What a request can get wrong beyond its text and its picture, and which of those it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from model.errors import FashionBertError, ImageError, TextError


class QueryError(FashionBertError):
    """A search cannot be done as asked.

    `code` is `out_of_range`, `unknown_item` or `invalid_base64`; of a filter or facet
    `invalid_filter` or `unknown_attribute`; of a picture's address `url_refused`, `url_failed` or
    `too_many_bytes`; of a write `invalid_request`.
    """

    code = "out_of_range"

    def __init__(self, message: str, *, field: str, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


@contextmanager
def blaming(field: str, place: str = "") -> Iterator[None]:
    """Name the field of a text or a picture that is refused within; `place` begins the message."""
    try:
        yield
    except (TextError, ImageError) as error:
        error.args = (f"{place}{error}",)
        error.public = str(error)
        error.field = field
        raise
