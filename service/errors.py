"""What a request can get wrong beyond its text and its picture."""

from __future__ import annotations

from model.errors import FashionBertError


class QueryError(FashionBertError):
    """A search cannot be done as asked.

    `code` is `out_of_range`, `unknown_item` or `invalid_base64`; of a filter or facet
    `invalid_filter` or `unknown_attribute`; of a picture's address `url_refused`, `url_failed` or
    `too_many_bytes`; of a write `invalid_request`. `field` names the request's field that is to
    blame, such as `k` or `pairs.3.image`.
    """

    code = "out_of_range"

    def __init__(self, message: str, *, field: str, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field
