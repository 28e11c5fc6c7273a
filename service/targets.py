"""Request targets in absolute form, `GET http://host/v1/index`, which RFC 9112 (3.2.2) has a server
take from callers that hold it for a proxy."""

from __future__ import annotations

import re
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

#: The server has cut off the query. Not with a user's name, as RFC 9110 (4.2.4) wants.
_ABSOLUTE = re.compile(rb"https?://([^/@]+)(/.*)?", re.IGNORECASE)


class OriginForm:
    """ASGI middleware that gives requests the target that they have on this server alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        if scope["type"] == "http" and not scope["path"].startswith("/"):
            scope = _origin_form(scope)
        await self.app(scope, receive, send)


def _origin_form(scope: Scope) -> Scope:
    match = _ABSOLUTE.fullmatch(scope["raw_path"])
    if match is None:
        return scope
    host, path = match[1], match[2] or b"/"
    # The host that was asked for is this one, whatever the header says.
    headers = [(b"host", host), *(header for header in scope["headers"] if header[0] != b"host")]
    return {**scope, "path": unquote(path.decode()), "raw_path": path, "headers": headers}
