"""What every request leaves behind: a log line, a measured duration, an id; and no bare failure."""

from __future__ import annotations

import contextlib
import logging
import time
from contextlib import AbstractContextManager
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import internal
from service.api.route_table import RouteTable
from service.api.state import Service
from service.logs import RequestRecord, current_request, request_id
from service.proxies import caller_address
from service.tracing import describe

#: Statuses whose log line has the caller's address: someone may be trying keys, or flooding.
_TURNED_AWAY = frozenset({401, 403, 429})
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds

#: Codes that `refused_total` counts here; other refusals are counted where they are made.
_NOT_WRITTEN = frozenset({"write_busy", "write_failed", "delta_full"})

_access = logging.getLogger("fashionbert.access")
_logger = logging.getLogger("fashionbert.api")


class Observe:
    """ASGI middleware, the outermost.

    It gives each request an id (`X-Request-Id`, the caller's own where that is a decent one), turns
    a failure into a typed 500, and asks connections to close while the service drains.
    """

    def __init__(self, app: ASGIApp, service: Service, routes: RouteTable) -> None:
        self.app = app
        self.service = service
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = RequestRecord(request_id(Headers(scope=scope).get("x-request-id")), receive)
        before = current_request.set(record)
        answer = _Answer(send, record, closing=self.service.draining)
        start = time.perf_counter()
        self.service.metrics.begin()
        with self._span(scope, record) as span:
            try:
                await self._pass_on(scope, receive, answer)
            finally:
                route = self._template(scope)
                status = 499 if answer.status is None else answer.status  # the caller hung up
                if span is not None:
                    describe(span, scope["method"], route, status, record)
                self._note(scope, record, route, status, time.perf_counter() - start)
                current_request.reset(before)

    def _template(self, scope: Scope) -> str:
        if "route" in scope:
            return str(scope["route"].path_format)
        # It was refused before it came to its route, or that one is Starlette's.
        return self.routes.template(scope) or "unmatched"

    def _span(self, scope: Scope, record: RequestRecord) -> AbstractContextManager[Any]:
        if self.service.tracing is None:
            return contextlib.nullcontext()
        return self.service.tracing.request(Headers(scope=scope), record)

    async def _pass_on(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self.app(scope, receive, answer.send)
        except ClientDisconnect:  # there is nobody to answer
            pass
        except Exception:
            _logger.exception("a request failed")
            if answer.status is not None:  # it has begun: the server cuts the connection
                raise
            await internal()(scope, receive, answer.send)

    def _note(
        self, scope: Scope, record: RequestRecord, route: str, status: int, seconds: float
    ) -> None:
        self.service.metrics.request(scope["method"], route, status, seconds)
        if record.degraded is not None:
            self.service.metrics.degraded(record.degraded)
        if record.code in _NOT_WRITTEN:
            self.service.metrics.refused(record.code)
        _access.log(
            logging.DEBUG if route in _QUIET and status == 200 else logging.INFO,
            "request",
            extra={
                "method": scope["method"][:16],
                "route": route,
                "status": status,
                "ms": round(1000 * seconds, 2),
                "caller": record.caller,
                "address": _address(scope) if status in _TURNED_AWAY else None,
                "cache": record.cache,
                "degraded": record.degraded,
                "code": record.code,
                "query": record.query if self.service.settings.log_queries else None,
            },
        )


def _address(scope: Scope) -> str:
    """The caller's address, of a trusted proxy's header where there is one."""
    return str(caller_address(scope) or "unknown")


class _Answer:
    """Sends an answer on with the headers that every one has; `status` once it has begun."""

    def __init__(self, send: Send, record: RequestRecord, *, closing: bool) -> None:
        self._send = send
        self._record = record
        self._closing = closing
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._record.id
            if self._record.cache is not None:
                headers["X-Cache"] = self._record.cache
            if self._closing:
                headers["Connection"] = "close"
        await self._send(message)
