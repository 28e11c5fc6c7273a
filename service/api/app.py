"""The app: routes, errors and limits around one `Service`."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.routing import APIRoute

from service.api import openapi, problems
from service.api.access import Access
from service.api.gauges import ServiceGauges
from service.api.limits import BodyLimit
from service.api.observe import Observe
from service.api.route_table import RouteTable
from service.api.routes import items, items_write, match, page, search, status
from service.api.state import Service
from service.live_search import LiveSearch
from service.rate_limit import RateLimiter
from service.security import Policy
from service.settings import Settings
from service.variables import warn_of_unknown_variables
from service.version import installed_version

_ROUTERS = tuple(module.router for module in (search, match, items, items_write, status, page))
_TEXT_BODY_BYTES = 1024**2  # a query and a filter, and no picture
_DESCRIPTION = """Cross-modal search of a fashion catalogue: FAISS recalls candidates, the
FashionBERT cross-encoder reranks them. Errors are problem details (RFC 9457) with a `code`."""


def create_app(settings: Settings, live: LiveSearch | None = None) -> FastAPI:
    """The service as an ASGI app.

    It answers `/healthz` at once, and everything else when a real search has gone through.

    Args:
        settings: limits, and where bundle and snapshots are.
        live: a catalogue that is already open, as the command line has it; by default the app
            opens what the settings name, and does not start if that fails. It is closed with the
            app.

    Raises:
        FashionBertError: the settings let in a network without keys and do not say that this is
            meant, or keys or an address cannot be read.
    """
    policy = Policy.of(settings)
    service = Service(settings, installed_version(), live)
    service.metrics.collect_from(ServiceGauges(service))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warn_of_unknown_variables(os.environ)
        await service.open()
        # Not awaited: the port opens now, and /readyz tells when the first search is through.
        first_search = asyncio.create_task(service.warm_up())
        yield
        await first_search
        await service.close()

    app = FastAPI(
        title="FashionBERT search",
        version=service.version,
        description=_DESCRIPTION,
        lifespan=lifespan,
        # The pages that FastAPI has for these load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        # A redirect would lead where the Host header says, over plain HTTP, and the key with it.
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    routes = RouteTable([*app.routes, *(route for router in _ROUTERS for route in router.routes)])
    app.state.service, app.state.routes = service, routes
    # The last one that is added is the first that a request comes to.
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        max_held=max(settings.max_bodies_bytes, settings.max_body_bytes),
        by_path={"/v1/search/text": min(_TEXT_BODY_BYTES, settings.max_body_bytes)},
        seconds=settings.body_seconds,
        metrics=service.metrics,
    )
    app.add_middleware(
        Access,
        policy=policy,
        limiter=_limiter(service),
        metrics=service.metrics,
        open_metrics=settings.open_metrics,
    )
    app.add_middleware(Observe, service=service, routes=routes)
    problems.install(app)
    openapi.install(app, policy, max_pairs=settings.max_pairs, open_metrics=settings.open_metrics)
    for router in _ROUTERS:
        app.include_router(router)
    return app


def _limiter(service: Service) -> RateLimiter | None:
    settings = service.settings
    if not settings.rate_limit:
        return None
    return RateLimiter(settings.rate_limit, settings.rate_burst, service.redis)


def _operation_id(route: APIRoute) -> str:
    return route.name
