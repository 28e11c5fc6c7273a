"""Bodies that a route reads itself, because they may come in several forms."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from python_multipart.multipart import parse_options_header

from service.api.problems import ProblemError

M = TypeVar("M", bound=BaseModel)

_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii")


def content_type(request: Request) -> str:
    """The body's media type, in lower case and without parameters; empty if it has none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _check_json(request: Request) -> None:
    """Refuse a body that does not say that it is JSON: FastAPI would take it for a string.

    Raises:
        ProblemError: it does not.
    """
    kind = content_type(request)
    if kind != "application/json":
        raise ProblemError(
            "unsupported_media_type",
            f"the body is {kind or 'of no type'}: send application/json",
        )


#: For every route whose body FastAPI reads.
JSON_BODY = Depends(_check_json)


def check_form(body: bytes, content_type: str) -> None:
    """Refuse a form that the parser would misread: it takes one without its closing boundary for
    whole, and decodes fields with whichever codec of Python the header names.

    Raises:
        ProblemError: it is cut short, or not in UTF-8.
    """
    options = parse_options_header(content_type)[1]
    charset = options.get(b"charset", b"utf-8")
    if charset.lower() not in _CHARSETS:
        raise ProblemError(
            "bad_request",
            f"the form's charset is {charset.decode('latin-1')!r:.80}: send it as UTF-8",
        )
    boundary = options.get(b"boundary", b"")
    if boundary and b"--" + boundary + b"--" not in body[-len(boundary) - 64 :]:
        raise ProblemError("bad_request", "the form is cut short: it lacks its closing boundary")


def validated(schema: type[M], data: bytes | dict[str, Any], *where: str) -> M:
    """The body as a schema has it.

    Args:
        schema: what it must be.
        data: JSON, or the fields.
        where: in the body, for the errors.

    Raises:
        RequestValidationError: it is something else.
    """
    try:
        if isinstance(data, bytes):
            return schema.model_validate_json(data)
        return schema.model_validate(data)
    except ValidationError as error:
        raise RequestValidationError(
            [
                {**one, "loc": ("body", *where, *one["loc"])}
                for one in error.errors(include_url=False)
            ]
        ) from error
