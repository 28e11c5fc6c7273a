"""`POST /v1/search/text` and `POST /v1/search/image`."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

from service.api.answers import EncodedQuery, cached_answer
from service.api.bodies import (
    aside,
    content_type,
    describe_json,
    json_body,
    validated_form,
    validated_json,
)
from service.api.filtering import FacetOut
from service.api.forms import read_form
from service.api.json_size import SEARCH_VALUES
from service.api.problems import ProblemError, responses
from service.api.schemas import (
    Degraded,
    HitOut,
    ImageSearch,
    ImageUpload,
    SearchResponse,
    TextSearch,
    decode_base64,
)
from service.api.state import Service, ready
from service.errors import blaming
from service.logs import note_query
from service.records import SearchResult
from service.search import Searcher

S = TypeVar("S", TextSearch, ImageSearch | ImageUpload)

router = APIRouter(prefix="/v1/search", tags=["search"])

_BASE = (
    "bad_request",
    "malformed_json",
    "slow_body",
    "too_many_bytes",
    "unsupported_media_type",
    "invalid_request",
    "invalid_filter",
    "unknown_attribute",
    "out_of_memory",
    "not_ready",
)
_IMAGE = ("invalid_base64", "not_an_image", "truncated", "too_many_pixels", "unsupported_format")
_CACHED: dict[str, Any] = {
    "headers": {
        "X-Cache": {
            "description": "whether the answer was there already",
            "required": True,
            "schema": {"type": "string", "enum": ["hit", "miss"]},
        }
    }
}
#: The body of a picture search for OpenAPI, which FastAPI cannot tell: the route reads it itself.
_IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {
                            "type": "string",
                            "format": "binary",
                            "description": "a JPEG, PNG or WebP file",
                        },
                        **ImageUpload.model_json_schema()["properties"],
                    },
                    "additionalProperties": False,
                },
                "encoding": {
                    "image": {"contentType": "image/jpeg, image/png, image/webp"},
                    "filters": {"contentType": "application/json"},
                },
            },
            "application/json": {"schema": ImageSearch.model_json_schema()},
        },
    }
}


@router.post(
    "/text",
    openapi_extra=describe_json(TextSearch),
    response_model=SearchResponse,
    responses={
        200: _CACHED,
        **responses(*_BASE, "empty_text", "invalid_text", "text_too_long", "out_of_range"),
    },
)
async def search_text(request: Request) -> Response:
    """Find the products whose pictures match a text."""
    service, searcher = await ready(request)
    body = _with_k(await json_body(request, TextSearch, SEARCH_VALUES), service)
    candidates = service.settings.candidates if body.candidates is None else body.candidates
    deadline = _deadline(body.budget_ms)
    note_query(body.query)

    async def search() -> SearchResponse:
        query = EncodedQuery(service, searcher, body.query)
        encoded = await query.find()
        work = partial(
            searcher.search_text,
            body.query,
            body.k,
            candidates,
            body.rerank,
            body.selection(),
            deadline=deadline,
            encoded=encoded,
        )
        with blaming("query"):
            result = await service.search(work, deadline)
        if encoded is None:
            # When the answer is sent: writing it does not wait.
            asyncio.get_running_loop().call_soon(query.keep, result)
        return _answer(searcher, result)

    return await cached_answer(service, searcher, "text", body, search, candidates=candidates)


async def _image_search(request: Request) -> tuple[ImageSearch | ImageUpload, bytes | None]:
    """The body of a picture search, by its content type: the fields, and the file it holds."""
    kind = content_type(request)
    data = await request.body()
    if kind == "application/json":
        return await aside(len(data), partial(_json_search, data))
    if kind != "multipart/form-data":
        raise ProblemError(
            "unsupported_media_type",
            f"the body is {kind or 'of no type'}: send multipart/form-data or application/json",
        )
    return await aside(len(data), partial(_form_search, data, request.headers["content-type"]))


def _form_search(data: bytes, content_type: str) -> tuple[ImageUpload, bytes]:
    parts = read_form(data, content_type, max_files=1)
    images = [part for part in parts if part.name == "image"]
    if len(images) != 1 or not images[0].is_file:
        raise RequestValidationError(
            [{"type": "missing", "loc": ("body", "image"), "msg": "send a file named image"}]
        )
    fields = {part.name: part.text() for part in parts if part.name != "image"}
    return validated_form(ImageUpload, fields), images[0].data


def _json_search(data: bytes) -> tuple[ImageSearch, bytes | None]:
    body = validated_json(ImageSearch, data, SEARCH_VALUES)
    return body, None if body.image is None else decode_base64(body.image, "image")


@router.post(
    "/image",
    response_model=SearchResponse,
    openapi_extra=_IMAGE_BODY,
    responses={
        200: _CACHED,
        **responses(
            *_BASE,
            *_IMAGE,
            "unknown_item",
            "out_of_range",
            "url_refused",
            "url_failed",
        ),
    },
)
async def search_image(request: Request) -> Response:
    """Find the products whose texts match a picture: a file, base64, or an item's."""
    service, searcher = await ready(request)
    body, image = await _image_search(request)
    body = _with_k(body, service)
    candidates = service.settings.candidates if body.candidates is None else body.candidates
    options = (body.k, candidates, body.rerank, body.selection())
    deadline = _deadline(body.budget_ms)
    field = "image"
    if isinstance(body, ImageSearch) and body.image_url is not None:
        field = "image_url"
        image = await service.pictures.fetch(body.image_url)
    if image is None:
        assert isinstance(body, ImageSearch)  # and its schema wants one of the three
        assert body.item_id is not None
        work = partial(searcher.search_item, body.item_id, *options, deadline=deadline)
    else:
        work = partial(searcher.search_image, image, *options, deadline=deadline)

    async def search() -> SearchResponse:
        with blaming(field):
            return _answer(searcher, await service.search(work, deadline))

    return await cached_answer(
        service, searcher, "image", body, search, candidates=candidates, image=image
    )


def _with_k(body: S, service: Service) -> S:
    """A search that does not say how many hits takes what a small limit leaves of the default."""
    if "k" in body.model_fields_set:
        return body
    return body.model_copy(update={"k": min(body.k, service.settings.max_k)})


def _deadline(budget_ms: float | None) -> float | None:
    """When the budget of a request that has just come is spent; waiting counts."""
    return None if budget_ms is None else time.perf_counter() + budget_ms / 1000


def _answer(searcher: Searcher, result: SearchResult) -> SearchResponse:
    return SearchResponse(
        hits=[HitOut.of(hit) for hit in result.hits],
        matching=result.matching,
        candidates=result.candidates,
        reranked=result.reranked,
        facets={name: FacetOut.of(facet) for name, facet in result.facets.items()} or None,
        truncated=result.truncated,
        model=searcher.engine.model_id,
        snapshot=searcher.snapshot.name,
        degraded=None if result.degraded is None else Degraded(reason=result.degraded),
        timings=result.timings,
    )
