"""Whom a request comes from: behind proxies, and over IPv4 to a port of IPv6."""

from __future__ import annotations

import ipaddress

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PlainAddresses:
    """ASGI middleware that gives callers over IPv4 their own address.

    On a port of `::` their connections come as `::ffff:a.b.c.d`, which no list of proxies names,
    and which all stand in one /64.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        if scope.get("client"):
            host, port = scope["client"]
            address = _parsed(host)
            scope["client"] = (host if address is None else str(address), port)
        await self.app(scope, receive, send)


def behind_proxies(app: ASGIApp, trusted: str) -> ASGIApp:
    """The app, told the address that a proxy of `trusted` (as in the settings) names."""
    if trusted:
        app = ProxyHeadersMiddleware(app, trusted)  # type: ignore[arg-type, assignment]
    return PlainAddresses(app)


def caller_address(scope: Scope) -> Address | None:
    """Whom a request comes from; None where nothing says so, or a proxy's header is no address."""
    return _parsed(scope["client"][0]) if scope.get("client") else None


def _parsed(host: str) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
