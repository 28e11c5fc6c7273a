"""What the app holds while it runs, and the dependencies through which routes reach it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request

from service.api.problems import ProblemError
from service.search import Searcher, open_searcher
from service.settings import Settings

T = TypeVar("T")

_logger = logging.getLogger("fashionbert.api")


@dataclass(slots=True)
class Service:
    """The searcher, once it is open, and whether a real search has gone through it."""

    settings: Settings
    searcher: Searcher | None = None
    ready: bool = False
    not_ready_because: str = "the model and the snapshot are being opened"
    limiter: anyio.CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        self.limiter = anyio.CapacityLimiter(self.settings.concurrency)

    async def compute(self, work: Callable[[], T]) -> T:
        """Run work that takes the processor outside the event loop, so much of it at a time."""
        return await anyio.to_thread.run_sync(work, limiter=self.limiter)

    async def open(self) -> None:
        """Open what the settings name, unless that was done before.

        Raises:
            FashionBertError: the bundle or the snapshot cannot be opened.
        """
        if self.searcher is None:
            self.searcher = await self.compute(lambda: open_searcher(self.settings))
        self.not_ready_because = "the first search is still running"

    async def warm_up(self) -> None:
        """Search once in each direction; the service is ready when that went well."""
        searcher = self.searcher
        assert searcher is not None
        try:
            await self.compute(lambda: first_searches(searcher))
        except Exception:
            _logger.exception("the first search failed; the service stays not ready")
            self.not_ready_because = "the first search failed: see the service's log"
        else:
            self.ready = True


def first_searches(searcher: Searcher) -> None:
    """A text search and a picture search, each with everything that a caller's would do."""
    snapshot = searcher.snapshot
    text = snapshot.item(0).text[: searcher.limits.max_query_characters]
    searcher.search_text(text)
    searcher.search_image(snapshot.image(0)[0])


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _ready_service(request: Request) -> Service:
    service = _service(request)
    if not service.ready:
        raise ProblemError("not_ready", service.not_ready_because)
    return service


def _searcher(service: Annotated[Service, Depends(_ready_service)]) -> Searcher:
    assert service.searcher is not None  # ready says so
    return service.searcher


ReadyService = Annotated[Service, Depends(_ready_service)]
ReadySearcher = Annotated[Searcher, Depends(_searcher)]
