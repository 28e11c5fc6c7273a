"""Every error as problem details (RFC 9457, `application/problem+json`).

`code` is what a program acts on; `detail` is for people and may change. What went wrong inside is
logged and never sent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from model.errors import FashionBertError
from service.api.route_table import RouteTable
from service.logs import current_request

MEDIA_TYPE = "application/problem+json"

#: The status and the title of each code. A code that is not here is the service's own failure.
PROBLEMS: dict[str, tuple[int, str]] = {
    "bad_request": (400, "The request cannot be read"),
    "malformed_json": (400, "The body is not JSON"),
    "empty_text": (400, "The text is empty"),
    "invalid_text": (400, "The text is not valid Unicode"),
    "invalid_base64": (400, "The picture is not base64"),
    "not_an_image": (400, "The file is not a picture"),
    "truncated": (400, "The picture is damaged or cut short"),
    "missing_key": (401, "The request needs an API key"),
    "unknown_key": (401, "The API key is not valid"),
    "wrong_scope": (403, "The API key may not do this"),
    "not_found": (404, "There is no such address"),
    "unknown_item": (404, "There is no such item"),
    "unknown_view": (404, "The item has no such picture"),
    "method_not_allowed": (405, "The address does not take this method"),
    "slow_body": (408, "The body took too long to arrive"),
    "too_many_bytes": (413, "The body or the picture is too large"),
    "too_many_pixels": (413, "The picture has too many pixels"),
    "unsupported_format": (415, "The picture is of a format that is not taken"),
    "unsupported_media_type": (415, "The body is of a type that is not taken"),
    "invalid_request": (422, "A field of the request is not valid"),
    "out_of_range": (422, "A number of the request is out of range"),
    "text_too_long": (422, "The text is too long"),
    "invalid_filter": (422, "The filter is not valid"),
    "unknown_attribute": (422, "There is no such attribute"),
    "url_refused": (422, "Pictures are not fetched from that address"),
    "url_failed": (424, "The picture could not be fetched"),
    "rate_limited": (429, "Too many requests"),
    "internal": (500, "The service has failed"),
    "not_ready": (503, "The service is not ready"),
    "write_failed": (503, "The write could not be stored"),
    "write_busy": (503, "Other writes are in the way"),
    "delta_full": (507, "The catalogue must be compacted first"),
    "overloaded": (503, "The service has more to do than it can"),
    "out_of_memory": (503, "The service has too little memory left"),
}
#: The code of an error that Starlette or a middleware raises by its status alone.
_CODES = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "slow_body",
    413: "too_many_bytes",
    503: "overloaded",
}

REFERENCE = "#/components/schemas/"  # where OpenAPI has a schema


def header(description: str, *, required: bool, **schema: Any) -> dict[str, Any]:
    """A header of an answer for OpenAPI; a string unless the schema says else."""
    return {"description": description, "required": required, "schema": {"type": "string"} | schema}


_RETRY_AFTER = {
    "Retry-After": header(
        "seconds until the request may be sent again", required=True, type="integer", minimum=1
    )
}
_AUTHENTICATE = {"WWW-Authenticate": header("what is wrong with the key", required=True)}
_HEADERS = {401: _AUTHENTICATE, 403: _AUTHENTICATE, 429: _RETRY_AFTER, 503: _RETRY_AFTER}

_ERRORS = 50  # that one answer lists
_LOCATION = 1_000  # characters of where one is: a body may have very long names

_logger = logging.getLogger("fashionbert.api")


class FieldError(BaseModel):
    """One field that is not valid."""

    location: str = Field(
        description="where it stands: `body.k`, `body.pairs.3.image`, `path.item_id`"
    )
    message: str


class Problem(BaseModel):
    """Problem details as RFC 9457 has them, with a `code`."""

    type: str = Field(description="`urn:fashionbert:problem:` and the code")
    title: str
    status: int
    detail: str
    code: str = Field(description="one of: " + ", ".join(f"`{code}`" for code in PROBLEMS))
    errors: list[FieldError] | None = Field(
        None,
        description="the fields to blame, where there are such; the first 50",
        json_schema_extra={"maxItems": _ERRORS},
    )

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "type": "urn:fashionbert:problem:out_of_range",
                    "title": PROBLEMS["out_of_range"][1],
                    "status": 422,
                    "detail": "k is 0: choose 1 to 1,000",
                    "code": "out_of_range",
                    "errors": [{"location": "body.k", "message": "k is 0: choose 1 to 1,000"}],
                }
            ]
        }
    }


class ProblemError(Exception):
    """An error of the HTTP side, such as `not_ready`; `headers` go with the answer."""

    def __init__(self, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.headers = {"Retry-After": "1"} if PROBLEMS[code][0] == 503 else {}
        self.headers |= headers or {}

    def response(self) -> Response:
        """The answer."""
        return problem(self.code, str(self), headers=self.headers)


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these problems, for OpenAPI."""
    by_status: dict[int | str, list[str]] = {}
    for code in (*codes, "internal"):
        by_status.setdefault(PROBLEMS[code][0], []).append(code)
    return {
        status: {
            "description": ", ".join(f"`{code}`" for code in names),
            "content": {MEDIA_TYPE: {"schema": {"$ref": f"{REFERENCE}Problem"}}},
            **({"headers": dict(_HEADERS[status])} if status in _HEADERS else {}),
        }
        for status, names in by_status.items()
    }


def problem(
    code: str,
    detail: str,
    *,
    errors: Sequence[FieldError] = (),
    headers: dict[str, str] | None = None,
) -> Response:
    """The response for a code of `PROBLEMS`."""
    status, title = PROBLEMS[code]
    body = Problem(
        type=f"urn:fashionbert:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        code=code,
        errors=list(errors) or None,
    )
    record = current_request.get()
    if record is not None:
        record.code = code
    content = body.model_dump_json(exclude_none=True)
    return Response(content, status, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(FashionBertError, _on_error)
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(MemoryError, _on_memory)


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FashionBertError)
    if error.code not in PROBLEMS:  # a bundle or snapshot gone bad: nothing the caller did
        _logger.error("%s %s: %s", request.method, request.url.path, error)
        return internal()
    if error.public != str(error):
        _logger.error("%s %s: %s", request.method, request.url.path, error)
    errors = []
    if error.field is not None:
        errors = [FieldError(location=_location(request, error.field), message=str(error))]
    headers = {"Retry-After": "1"} if PROBLEMS[error.code][0] == 503 else None
    return problem(error.code, error.public, errors=errors, headers=headers)


def _location(request: Request, field: str) -> str:
    """Where a request has a field: an item's id stands in the address, all else in the body."""
    if field == "id" and "item_id" in request.path_params:
        return "path.item_id"
    return f"body.{field}"


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return error.response()


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    # Not all: a small body may have a hundred thousand faults, and one says what to mend.
    errors = [
        FieldError(
            location=".".join(str(part) for part in one["loc"])[:_LOCATION],
            message=one["msg"].removeprefix("Value error, "),
        )
        for one in found[:_ERRORS]
    ]
    for one in found:
        if one["type"] == "json_invalid":
            return problem("malformed_json", f"the body is not JSON: {_reason(one, error.body)}")
    first = f"{errors[0].location}: {errors[0].message}"
    more = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
    return problem("invalid_request", first + more, errors=errors)


def _reason(found: dict[str, Any], body: Any) -> str:
    """Why something is no JSON, and where."""
    reason = str(found.get("ctx", {}).get("error", found["msg"]))
    at = found["loc"][-1]
    if isinstance(at, int) and isinstance(body, str):  # of `json`; pydantic's reason has the place
        line, column = body.count("\n", 0, at) + 1, at - body.rfind("\n", 0, at)
        reason += f" at line {line} column {column}"
    return reason


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code)
    if code is None:
        return internal()
    details = {
        "not_found": f"there is nothing at {request.url.path}",
        "method_not_allowed": f"{request.url.path} does not take {request.method}",
    }
    headers = dict(error.headers) if error.headers else {}
    if code == "method_not_allowed" and (methods := _methods(request)):
        headers["Allow"] = ", ".join(methods)  # of all routes with this address
    return problem(code, details.get(code, str(error.detail)), headers=headers)


def _methods(request: Request) -> list[str]:
    routes: RouteTable = request.app.state.routes
    return routes.methods(request.scope)


async def _on_memory(request: Request, error: Exception) -> Response:
    _logger.error("%s %s: %s", request.method, request.url.path, error or "out of memory")
    detail = "the request does not fit into the memory that is left: try again a little later"
    return problem("out_of_memory", detail, headers={"Retry-After": "1"})


def internal() -> Response:
    """The answer to a failure of the service's own; what failed stands in the log."""
    return problem("internal", "something went wrong inside the service; its log has the details")
