"""Answers and encoded queries from the cache.

A key names all that an answer depends on: the code's version, the model, the version of the
catalogue (the snapshot and the writes on top of it), the limits, and the request. So a write makes
new keys and nothing stale is answered. Key and answer are both of the searcher's one version.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from index.live import LiveSnapshot
from model.engine import EncodedTexts
from service.api.schemas import SearchResponse
from service.api.state import Service
from service.logs import current_request
from service.queries import pack, unpack
from service.records import SearchLimits, SearchResult
from service.search import Searcher


async def cached_answer(
    service: Service,
    searcher: Searcher,
    kind: str,
    body: BaseModel,
    search: Callable[[], Awaitable[SearchResponse]],
    *,
    candidates: int,
    image: bytes | None = None,
) -> Response:
    """The answer to a request, from the cache or else from `search`, whose answer has timings.

    It is JSON already, as the cache has it: FastAPI would check it and write it once more.

    Args:
        service: has the cache.
        searcher: what would be searched.
        kind: of search, `text` or `image`.
        body: the request; every field but `timings` and `budget_ms` is part of the key: an answer
            that is less for want of time is not kept, and one that is there takes none.
        search: does the search.
        candidates: what the service makes of the request's.
        image: the picture that is searched with, however it came.
    """
    start = time.perf_counter()
    wants_timings = bool(getattr(body, "timings", False))
    request = body.model_dump(mode="json", exclude={"timings", "budget_ms", "image", "image_url"})
    picture = None if image is None else hashlib.sha256(image).hexdigest()
    request |= {"candidates": candidates, "image": picture}
    key = _key(service, searcher, kind, request)
    found = _parsed(await service.answers.get(key))
    _note(found is not None)
    if found is not None:
        spent = round(1000 * (time.perf_counter() - start), 3)
        timings = {"cache": spent, "total": spent} if wants_timings else None
        return _sent(_written(found, timings))
    answer = await search()
    written = _written(answer, None)
    if answer.degraded is None and answer.reranked == answer.candidates:
        service.answers.put(key, written)
    return _sent(_written(answer, answer.timings) if wants_timings else written)


def _written(answer: SearchResponse, timings: dict[str, float] | None) -> bytes:
    return answer.model_copy(update={"timings": timings}).model_dump_json().encode()


def _sent(written: bytes) -> Response:
    return Response(written, media_type="application/json")


class EncodedQuery:
    """A query's place in the cache of encoded queries."""

    def __init__(self, service: Service, searcher: Searcher, query: str) -> None:
        self._cache = service.queries
        self._engine = searcher.engine
        self._key = _hashed([service.version, searcher.engine.model_id, query.strip()])

    async def find(self) -> EncodedTexts | None:
        """The query as it was encoded before; None if the cache does not have it."""
        data = await self._cache.get(self._key)
        return None if data is None else unpack(data, self._engine)

    def keep(self, result: SearchResult) -> None:
        """Keep the encoded query of a result."""
        if result.encoded is not None:
            self._cache.put(self._key, pack(result.encoded))


def _key(service: Service, searcher: Searcher, kind: str, request: dict[str, Any]) -> str:
    snapshot = searcher.snapshot
    return _hashed(
        [
            kind,
            service.version,
            searcher.engine.model_id,
            snapshot.name,  # with the number of the last write
            # Names and numbers start again in another folder, and where an older copy was put
            # back; hashes of what was built, and when, and of what was written do not.
            snapshot.manifest.key,
            snapshot.created,
            snapshot.delta.fingerprint if isinstance(snapshot, LiveSnapshot) else "",
            _shown(searcher.limits),
            request,
        ]
    )


@functools.cache
def _shown(limits: SearchLimits) -> str:
    """Limits as text; made once, as a service has one of them."""
    return repr(limits)


def _hashed(parts: list[Any]) -> str:
    # Escaped to ASCII, a half character of JSON included.
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _parsed(data: bytes | None) -> SearchResponse | None:
    if data is None:
        return None
    try:
        return SearchResponse.model_validate_json(data)
    except ValidationError:  # of another version of this code
        return None


def _note(hit: bool) -> None:
    record = current_request.get()
    if record is not None:
        record.cache = "hit" if hit else "miss"
