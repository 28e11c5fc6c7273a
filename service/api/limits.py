"""Limits on a request's body, kept while it arrives: its size, its time, that of all together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import problem
from service.metrics import Metrics

#: A body up to this size is let in however much the others hold.
_SMALL = 64 * 1024


class BodyLimit:
    """ASGI middleware that refuses a body of more than `max_bytes` with a 413, one that finds the
    memory for bodies full with a 503, and one that does not arrive in time with a 408.

    A body that announces its length is refused before any of it is read; one that does not
    (chunked) as soon as it has grown too long.

    Args:
        app: what the requests are passed on to.
        max_bytes: of one body.
        max_held: of all bodies of requests that are not answered yet; small ones are not refused.
        by_path: what takes the place of `max_bytes` at these addresses.
        seconds: that one may take from when it is first read, else a few slow ones would hold all
            that memory for as long as they like.
        metrics: where refusals are counted.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        max_held: int,
        by_path: Mapping[str, int],
        seconds: float,
        metrics: Metrics,
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_held = max_held
        self.by_path = by_path
        self.seconds = seconds
        self.metrics = metrics
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body counted."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_bytes = self.by_path.get(scope["path"], self.max_bytes)
        detail = f"the body has more than the {max_bytes:,} bytes that are taken"
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > max_bytes:
            await problem("too_many_bytes", detail)(scope, receive, send)
            return
        received = 0
        until: float | None = None
        whole = False

        async def counted() -> Message:
            nonlocal received, until, whole
            if whole:  # what comes now is that the caller hangs up
                return await receive()
            until = until or asyncio.get_running_loop().time() + self.seconds
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError as error:
                self.metrics.refused("slow_body")
                raise HTTPException(
                    408,
                    f"the body did not arrive within {self.seconds:g} s: send it again",
                    headers={"Connection": "close"},  # the rest of it would still come
                ) from error
            whole = not message.get("more_body", False)
            arrived = len(message.get("body", b""))
            received += arrived
            self._held += arrived
            # Both body parsers let an HTTPException through.
            if received > max_bytes:
                raise HTTPException(413, detail)
            if self._held > self.max_held and received > _SMALL:
                self.metrics.refused("overloaded")
                raise HTTPException(
                    503,
                    f"bodies of {self.max_held:,} bytes are held already: try again a little later",
                    headers={"Retry-After": "1"},
                )
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self._held -= received
