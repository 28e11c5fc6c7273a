"""What the app holds while it runs, and the dependencies through which routes reach it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request

from model.preprocess import DEFAULT_LIMITS
from service.api.problems import ProblemError
from service.api.queue import Queue
from service.cache import ByteLru, Cache
from service.change_feed import ChangeFeed
from service.live_search import LiveSearch, open_live_search
from service.logs import current_request
from service.metrics import Metrics
from service.picture_urls import PictureFetcher
from service.products import WriteLimits
from service.records import DEFAULT_CANDIDATES, DEFAULT_K, MatchResult, SearchResult
from service.redis_link import RedisLink
from service.reranking import FAILED
from service.search import Searcher
from service.settings import Settings
from service.tracing import Tracing
from service.writes import Writer

T = TypeVar("T")

_logger = logging.getLogger("fashionbert.api")


@dataclass(slots=True)
class Service:
    """The catalogue, once it is open, whether a real search has gone through it, and its helpers.

    `draining` is set when the process was asked to end: it still answers, but is not ready.
    """

    settings: Settings
    version: str
    live: LiveSearch | None = None
    ready: bool = False
    draining: bool = False
    not_ready_because: str = "the model and the snapshot are being opened"
    started: float = field(default_factory=time.time)
    metrics: Metrics = field(init=False)
    searches: Queue = field(init=False)
    matches: Queue = field(init=False)
    writes: Queue = field(init=False)
    redis: RedisLink | None = field(init=False, default=None)
    lru: ByteLru = field(init=False)
    answers: Cache = field(init=False)
    queries: Cache = field(init=False)
    pictures: PictureFetcher = field(init=False)
    tracing: Tracing | None = field(init=False, default=None)
    writer: Writer | None = field(init=False, default=None)
    change_feed: ChangeFeed | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        settings = self.settings
        self.metrics = Metrics(self.version)
        # Each by itself, so that no search waits for what takes longer: hundreds of pictures may
        # come with a match, and a write waits for the log.
        self.searches, self.matches, self.writes = (
            Queue(concurrency, settings.max_queue, settings.queue_seconds, self.metrics)
            for concurrency in (
                settings.concurrency,
                max(1, settings.concurrency // 2),
                settings.write_concurrency,
            )
        )
        if settings.redis_url is not None:
            self.redis = RedisLink(
                settings.redis_url.get_secret_value(), timeout=settings.redis_timeout
            )
        self.lru = ByteLru(settings.cache_bytes)
        self.answers, self.queries = (
            Cache(name, self.lru, self.metrics, self.redis, settings.cache_seconds)
            for name in ("answers", "queries")
        )
        self.pictures = PictureFetcher(
            settings.picture_host_names, settings.max_upload_bytes, settings.picture_seconds
        )
        if settings.traces:
            self.tracing = Tracing()

    @property
    def no_traffic_because(self) -> str | None:
        """Why no traffic may come, as /readyz, the gauge and the status tell; None where it may."""
        if self.draining:
            return "the service is shutting down"
        if not self.ready:
            return self.not_ready_because
        if self.live is not None and self.live.engine.memory.exhausted:
            return "the model has run out of memory several times in a row"
        return None

    @property
    def waiting(self) -> int:
        """How many requests wait to be computed."""
        return sum(queue.waiting for queue in (self.searches, self.matches, self.writes))

    @property
    def computing(self) -> int:
        """How many requests are being computed."""
        return sum(queue.computing for queue in (self.searches, self.matches, self.writes))

    async def search(
        self, work: Callable[[], SearchResult], until: float | None = None
    ) -> SearchResult:
        """Run a search outside the event loop, when it is its turn.

        Args:
            work: the search.
            until: of `time.perf_counter`; it is refused if it has not begun by then.

        Raises:
            ProblemError: too much is waiting already, or this has waited for too long.
        """
        result = await self.searches.run(work, float("inf") if until is None else until)
        self._note(result)
        return result

    async def match(self, work: Callable[[], MatchResult]) -> MatchResult:
        """Run a match; as `search`."""
        result = await self.matches.run(work)
        self._note(result)
        return result

    async def store(self, work: Callable[[], T]) -> T:
        """Run what is written to the catalogue; as `search`."""
        return await self.writes.run(work)

    def _note(self, result: SearchResult | MatchResult) -> None:
        self.metrics.stages(result.timings)
        record = current_request.get()
        if record is not None:
            record.timings = result.timings
        if isinstance(result, SearchResult):
            if result.pairs:
                self.metrics.pairs(result.pairs)
            if record is not None:
                record.degraded = result.degraded

    async def open(self) -> None:
        """Open what the settings name, unless that was done before, and follow its changes.

        Raises:
            FashionBertError: the bundle or the snapshot cannot be opened.
        """
        if self.live is None:
            self.live = await anyio.to_thread.run_sync(lambda: open_live_search(self.settings))
        index = self.live.index
        limits = WriteLimits(image=self.live.limits.image)
        self.writer = Writer(self.live.engine, index, limits)
        if self.redis is not None:
            self.change_feed = ChangeFeed(self.redis, index)
            self.writer.announce = self.change_feed.announce
        index.watch()  # with Redis too: it may be down, and a build does not tell it
        self.not_ready_because = "the first search is still running"

    async def warm_up(self) -> None:
        """Search once in each direction; the service is ready when that went well."""
        live = self.live
        assert live is not None
        try:
            await anyio.to_thread.run_sync(lambda: first_searches(live.searcher()))
        except Exception:
            _logger.exception("the first search failed; the service stays not ready")
            self.not_ready_because = "the first search failed: see the service's log"
        else:
            self.ready = True

    async def close(self) -> None:
        """Let go of what is connected."""
        if self.change_feed is not None:
            await self.change_feed.close()
        if self.live is not None:
            await anyio.to_thread.run_sync(self.live.index.close)
        if self.redis is not None:
            await self.redis.close()
        if self.tracing is not None:
            await anyio.to_thread.run_sync(self.tracing.close)


def first_searches(searcher: Searcher) -> None:
    """A text search and a picture search, each with everything that a caller's would do.

    Both keep the searcher's limits, but the picture is the catalogue's own: what callers may upload
    says nothing about it.

    Raises:
        RuntimeError: the reranker failed. Later searches go on without it, but a service that
            begins so is not ready.
    """
    snapshot, limits = searcher.snapshot, searcher.limits
    limits_of_own = replace(limits, image=DEFAULT_LIMITS)
    own = Searcher(searcher.engine, snapshot, limits_of_own, searcher.tables)
    k = min(DEFAULT_K, limits.max_k)
    candidates = min(DEFAULT_CANDIDATES, limits.max_candidates)
    text = snapshot.item(0).text[: limits.max_query_characters]
    results = (
        own.search_text(text, k, candidates),
        own.search_image(snapshot.image(0)[0], k, candidates),
    )
    if any(result.degraded == FAILED for result in results):
        raise RuntimeError("the reranker failed")


# What requests depend on is made in coroutines: FastAPI runs plain functions in a thread, which
# takes longer than what these do.


async def get_service(request: Request) -> Service:
    """The service of the app that a request came to."""
    service: Service = request.app.state.service
    return service


async def _ready_service(service: Annotated[Service, Depends(get_service)]) -> Service:
    if not service.ready:
        raise ProblemError("not_ready", service.not_ready_because)
    return service


async def _searcher(service: Annotated[Service, Depends(_ready_service)]) -> Searcher:
    """The newest version; a request takes it once, and so sees one only."""
    assert service.live is not None  # ready says so
    return service.live.searcher()


async def ready(request: Request) -> tuple[Service, Searcher]:
    """What a search depends on, without FastAPI's way there.

    Raises:
        ProblemError: `not_ready`.
    """
    service = await _ready_service(await get_service(request))
    return service, await _searcher(service)


async def _writer(service: Annotated[Service, Depends(_ready_service)]) -> Writer:
    assert service.writer is not None  # likewise
    return service.writer


AnyService = Annotated[Service, Depends(get_service)]
ReadyService = Annotated[Service, Depends(_ready_service)]
ReadySearcher = Annotated[Searcher, Depends(_searcher)]
ReadyWriter = Annotated[Writer, Depends(_writer)]
