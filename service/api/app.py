"""The app: routes, errors and limits around one `Service`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from fastapi.routing import APIRoute

from service.api import problems
from service.api.limits import BodyLimit
from service.api.routes import items, match, page, search, status
from service.api.state import Service
from service.search import Searcher
from service.settings import Settings

_DESCRIPTION = """Cross-modal search of a fashion catalogue: FAISS recalls candidates, the
FashionBERT cross-encoder reranks them. Errors are problem details (RFC 9457) with a `code`."""


def create_app(settings: Settings, searcher: Searcher | None = None) -> FastAPI:
    """The service as an ASGI app.

    It answers `/healthz` at once, and everything else when a real search has gone through.

    Args:
        settings: limits, and where bundle and snapshots are.
        searcher: one that is already open, as the command line has it; by default the app opens
            what the settings name, and does not start if that fails.
    """
    service = Service(settings, searcher)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.open()
        # Not awaited: the port opens now, and /readyz tells when the first search is through.
        first_search = asyncio.create_task(service.warm_up())
        yield
        await first_search

    app = FastAPI(
        title="FashionBERT search",
        version=_version(),
        description=_DESCRIPTION,
        lifespan=lifespan,
        # The pages that FastAPI has for these load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
    )
    app.state.service = service
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    problems.install(app)
    for router in (search.router, match.router, items.router, status.router, page.router):
        app.include_router(router)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def _version() -> str:
    try:
        return version("fashionbert")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
