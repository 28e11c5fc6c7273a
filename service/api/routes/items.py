"""`GET /v1/items/{id}` and `GET /v1/items/{id}/image`.

An id may hold slashes and anything else, percent-encoded or not; only one that ends in `/image`
cannot be told from the address of a picture. Both take HEAD too.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from service.api.item_ids import UTF8_ADDRESS, ItemId
from service.api.problems import ProblemError, responses
from service.api.schemas import ItemOut
from service.api.state import ReadySearcher
from service.items import row_of

router = APIRouter(prefix="/v1/items", tags=["items"], dependencies=[UTF8_ADDRESS])

_CACHE = "private, max-age=0, must-revalidate"  # a write may replace it at any time


# Before the item's own route, which would take the address otherwise.
@router.head("/{item_id:item}/image", include_in_schema=False)
@router.get(
    "/{item_id:item}/image",
    response_class=Response,
    responses={
        200: {
            "description": "the picture, at most 512 pixels on its long side",
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in ("image/jpeg", "image/png", "image/webp")
            },
        },
        304: {"description": "it is what If-None-Match names"},
        **responses("unknown_item", "unknown_view", "invalid_request", "not_ready"),
    },
)
def get_item_image(
    item_id: ItemId,
    searcher: ReadySearcher,
    view: Annotated[int, Query(ge=0, description="which of its pictures, from 0")] = 0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A product's picture."""
    snapshot = searcher.snapshot
    rows = snapshot.image_rows(row_of(snapshot, item_id))
    if view >= len(rows):
        raise ProblemError(
            "unknown_view", f"item {item_id!r} has views 0 to {len(rows) - 1}, not {view}"
        )
    data, media_type = snapshot.image(rows[view])
    # Of nothing but the bytes: names of snapshots and numbers of writes may come again.
    etag = f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": _CACHE, "X-Content-Type-Options": "nosniff"}
    if if_none_match is not None and _names(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=media_type)


@router.head("/{item_id:item}", include_in_schema=False)
@router.get("/{item_id:item}", responses=responses("unknown_item", "invalid_request", "not_ready"))
def get_item(item_id: ItemId, searcher: ReadySearcher) -> ItemOut:
    """A product: its text, its attributes, how many pictures it has."""
    return ItemOut.of(searcher.snapshot.item(row_of(searcher.snapshot, item_id)))


def _names(if_none_match: str, etag: str) -> bool:
    """Whether the header's list has the tag; RFC 9110 compares weakly here."""
    tags = (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))
    return any(tag in ("*", etag) for tag in tags)
