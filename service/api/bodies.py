"""Bodies that a route reads itself: because they may come in several forms, or because it is asked
so often that the time counts which FastAPI takes to find out what a route's parameters are."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from service.api.json_size import check_values
from service.api.problems import REFERENCE, ProblemError
from service.api.strict import FORM

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_LARGE = 4 * 1024  # bytes; a body of less is read in a few milliseconds, whatever it is


def content_type(request: Request) -> str:
    """The body's media type, in lower case and without parameters; empty if it has none.

    Raises:
        ProblemError: the body is compressed.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise ProblemError(
            "unsupported_media_type",
            f"the body is encoded as {encoding:.40}: send it as it is",
            {"Accept-Encoding": "identity"},
        )
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def aside(size: int, work: Callable[[], T]) -> T:
    """Read a body of `size` bytes: a large one in a thread, for all other requests would wait."""
    return await anyio.to_thread.run_sync(work) if size > _LARGE else work()


async def json_body(request: Request, schema: type[M], most: int) -> M:
    """The body of a request that sends JSON of at most `most` values.

    Raises:
        ProblemError: it does not say so, cannot be read, or has more values.
        RequestValidationError: it is something else.
    """
    data = await request.body()
    kind = content_type(request)
    if kind != "application/json":
        raise ProblemError(
            "unsupported_media_type",
            f"the body is {kind or 'of no type'}: send application/json",
        )
    return await aside(len(data), partial(_parsed, schema, data, most))


def _parsed(schema: type[M], data: bytes, most: int) -> M:
    check_values(data, most)
    try:
        # Not pydantic's parser: it takes half a character (`\ud800`) for a fault of the JSON.
        # Decoded here, as `json` would take UTF-16 too, in which the values were not counted.
        fields = json.loads(data.decode("utf-8-sig", "surrogatepass"))
    except json.JSONDecodeError as error:
        raise RequestValidationError(
            [{"type": "json_invalid", "loc": ("body", error.pos), "msg": error.msg}],
            body=error.doc,
        ) from error
    except UnicodeDecodeError as error:
        raise ProblemError("bad_request", "the body is no text: send JSON in UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ProblemError(
            "bad_request", "the body nests too deeply, or has a number of too many digits"
        ) from error
    return _validated(schema, fields)


def describe_json(schema: type[BaseModel]) -> dict[str, Any]:
    """For OpenAPI (`openapi_extra`), what `json_body` reads, which FastAPI cannot tell."""
    described = schema.model_json_schema(ref_template=REFERENCE + "{model}")
    # `service.api.openapi` puts these where the references lead.
    defined = described.pop("$defs", {}) | {schema.__name__: described}
    reference = {"$ref": REFERENCE + schema.__name__, "$defs": defined}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}
    }


def validated_json(schema: type[M], data: bytes, most: int, *where: str) -> M:
    """JSON as a schema has it.

    Args:
        schema: what it must be.
        data: the JSON.
        most: values that it may have.
        where: in the body, for the errors.

    Raises:
        ProblemError: it has more values.
        RequestValidationError: it is something else.
    """
    check_values(data, most)
    return _validated(schema, data.removeprefix(BOM_UTF8), *where)


def validated_form(schema: type[M], fields: dict[str, Any]) -> M:
    """The fields of a form as a schema has them.

    Raises:
        RequestValidationError: they are something else.
    """
    return _validated(schema, fields, context=FORM)


def _validated(schema: type[M], data: Any, *where: str, context: Any = None) -> M:
    try:
        if isinstance(data, bytes):
            return schema.model_validate_json(data)
        return schema.model_validate(data, context=context)
    except ValidationError as error:
        raise RequestValidationError(
            [
                {**one, "msg": _message(one), "loc": ("body", *where, *one["loc"])}
                for one in error.errors(include_url=False, include_input=False)
            ]
        ) from error


def _message(error: ErrorDetails) -> str:
    """What pydantic says, less the names of Python's classes."""
    kinds = ("model_type", "dict_type")
    return "Input should be an object" if error["type"] in kinds else error["msg"]
