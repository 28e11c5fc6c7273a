"""Pictures from an address that a caller gives, without lending the caller our place in a network.

Only https, only hosts that the settings name (by default none), and only where all addresses of the
host are public. The name is resolved once and that very address is connected to, while certificate,
SNI and Host are the name's: what it resolves to a moment later does not matter. Redirects are not
followed, no proxy is asked, nothing is decompressed.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import quote, urlsplit

import httpcore

from service.addresses import is_public
from service.errors import QueryError

Resolve = Callable[[str], Awaitable[list[str]]]

_PORT = 443
_AT_ONCE = 16
#: Printable ASCII without blanks and what parsers of addresses read differently.
_URL = re.compile(r"[!#-;=?-\[\]_a-z~]{1,2000}")


def host_and_target(url: str, hosts: frozenset[str]) -> tuple[str, str]:
    """The host and the path with query of an address that may be fetched.

    Raises:
        QueryError: `url_refused`: it is not https, not plain, or of a host that is not in
            `hosts`.
    """
    if not hosts:
        raise _refused("this service fetches no pictures: send the picture itself")
    if not _URL.fullmatch(url):
        raise _refused("the address has characters that must be percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refused("it is no valid address") from None
    if parts.scheme != "https":
        raise _refused("the address must begin with https://")
    host = parts.netloc.lower().removesuffix(f":{_PORT}")
    # Compared as it stands: with a user, another port, a dot at the end or a number for a name it
    # is no name on the list.
    if host not in hosts or port not in (None, _PORT):
        raise _refused("its host is not one that this service fetches pictures from")
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    return host, f"{target}?{parts.query}" if parts.query else target


async def resolve(host: str) -> list[str]:
    """The host's addresses, as the system resolves them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, _PORT, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class PictureFetcher:
    """Fetches pictures.

    Args:
        hosts: that pictures may be fetched from; none at all where this is empty.
        max_bytes: of a picture.
        seconds: for everything: resolving, connecting, reading.
        resolver: from a host to its addresses.
        backend: makes the TCP connections.
        ssl_context: checks certificates; the system's by default.
    """

    def __init__(
        self,
        hosts: frozenset[str],
        max_bytes: int,
        seconds: float,
        *,
        resolver: Resolve = resolve,
        backend: httpcore.AsyncNetworkBackend | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._resolve = resolver
        self._backend = backend
        self._ssl_context = ssl_context
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, url: str) -> bytes:
        """The bytes at the address, whatever they are.

        Raises:
            QueryError: `url_refused`: it may not be fetched. `url_failed`: it could not be.
                `too_many_bytes`: it is too large.
        """
        host, target = host_and_target(url, self._hosts)
        try:
            async with asyncio.timeout(self._seconds), self._at_once:
                return await self._read(host, target, await self._address(host))
        except TimeoutError:
            raise _failed(f"{host} took more than {self._seconds:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError):
            raise _failed(f"{host} could not be connected to, or broke off") from None
        except httpcore.TimeoutException:
            raise _failed(f"{host} took too long") from None

    async def _address(self, host: str) -> str:
        try:
            addresses = await self._resolve(host)
        except OSError:
            addresses = []
        if not addresses:
            raise _failed(f"{host} has no address")
        if not all(map(is_public, addresses)):
            raise _refused(f"{host} has an address that is not public")
        return addresses[0]

    async def _read(self, host: str, target: str, address: str) -> bytes:
        pool = httpcore.AsyncConnectionPool(
            ssl_context=self._ssl_context or ssl.create_default_context(),
            max_connections=1,
            max_keepalive_connections=0,
            network_backend=_Pinned(address, self._backend or httpcore.AnyIOBackend()),
        )
        request = httpcore.URL(scheme="https", host=host, port=_PORT, target=target)
        headers = [("Host", host), ("Accept", "image/*"), ("Accept-Encoding", "identity")]
        async with pool, pool.stream("GET", request, headers=headers) as response:
            if response.status != 200:
                raise _failed(f"{host} answered with {response.status}, and only 200 is taken")
            data = bytearray()
            async for chunk in response.aiter_stream():
                data += chunk
                if len(data) > self._max_bytes:
                    raise _error(
                        "too_many_bytes",
                        f"the picture at {host} has more than the {self._max_bytes:,} bytes that "
                        "are taken",
                    )
            return bytes(data)


class _Pinned(httpcore.AsyncNetworkBackend):
    """Connects to one address, whatever the host's name may resolve to by now."""

    def __init__(self, address: str, backend: httpcore.AsyncNetworkBackend) -> None:
        self._address = address
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return await self._backend.connect_tcp(
            self._address, port, timeout, local_address, socket_options
        )


def _error(code: str, why: str) -> QueryError:
    return QueryError(f"image_url: {why}", field="image_url", code=code)


def _refused(why: str) -> QueryError:
    return _error("url_refused", why)


def _failed(why: str) -> QueryError:
    return _error("url_failed", why)
