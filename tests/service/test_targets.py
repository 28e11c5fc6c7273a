from __future__ import annotations

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from service.targets import OriginForm


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        (b"/v1/index", ("/v1/index", b"/v1/index", b"own")),
        (b"http://shop:80/v1/items/a%2Fb", ("/v1/items/a/b", b"/v1/items/a%2Fb", b"shop:80")),
        (b"HTTPS://[::1]", ("/", b"/", b"[::1]")),
        (b"http://shop/a//b", ("/a//b", b"/a//b", b"shop")),
        # These have no such form, and are no address here.
        (b"http:///healthz", ("http:///healthz", b"http:///healthz", b"own")),
        (b"http://me@shop/healthz", ("http://me@shop/healthz", b"http://me@shop/healthz", b"own")),
        (b"ftp://shop/healthz", ("ftp://shop/healthz", b"ftp://shop/healthz", b"own")),
        (b"*", ("*", b"*", b"own")),
    ],
)
def test_the_target_of_a_request(target: bytes, seen: tuple[str, bytes, bytes]) -> None:
    """Its host is the target's where that has one, whatever the header says."""
    came: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        came.append(scope)

    path = target.decode().replace("%2F", "/")
    scope = {
        "type": "http",
        "path": path,
        "raw_path": target,
        "headers": [(b"host", b"own"), (b"accept", b"*/*")],
    }
    asyncio.run(OriginForm(app)(scope, None, None))  # type: ignore[arg-type]
    headers = dict(came[0]["headers"])
    assert (came[0]["path"], came[0]["raw_path"], headers[b"host"]) == seen
    assert headers[b"accept"] == b"*/*"
