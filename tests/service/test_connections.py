from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import ClassVar

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from service.connections import impatient_protocol
from service.targets import OriginForm

SHORT = 0.3  # seconds


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what was asked for; `/large` with 8 MB, `/small` with 40 KB; reads the bodies of
    `/read` alone."""
    request = Request(scope, receive)
    if scope["path"] == "/read":
        with suppress(ClientDisconnect):
            await request.body()
    text = f"{request.method} {request.url.path}?{request.url.query} {request.headers['host']} "
    filling = {"/large": 8_000_000, "/small": 40_000}.get(scope["path"], 0)
    await PlainTextResponse(text + "x" * filling)(scope, receive, send)


@asynccontextmanager
async def connected(
    *sent: bytes,
    head: float = 60,
    body: float = 60,
    protocol: type[H11Protocol] | None = None,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, ServerState]]:
    """A connection to a server, on which this has been sent; the kernel keeps little of what comes
    back."""
    config = uvicorn.Config(OriginForm(app), log_config=None, access_log=False, lifespan="off")
    config.load()
    state, made = ServerState(), protocol or impatient_protocol(head, body)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: made(config, state, {}), "127.0.0.1", 0)
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    own.setblocking(False)
    await loop.sock_connect(own, server.sockets[0].getsockname())
    reader, writer = await asyncio.open_connection(sock=own, limit=1024)
    try:
        for part in sent:
            writer.write(part)
            await asyncio.sleep(0.05)
        yield reader, writer, state
    finally:
        writer.transport.abort()
        for connection in list(state.connections):
            connection.transport.abort()  # type: ignore[union-attr]
        server.close()


async def answers(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection is closed."""
    async with asyncio.timeout(10):
        return await reader.read()


def run(work: object) -> None:
    asyncio.run(work)  # type: ignore[arg-type]


@pytest.mark.parametrize("line", [b"GET / HTTP/1.1", b"POST /unread HTTP/1.1"])
def test_the_rest_of_an_answered_body_has_to_arrive(line: bytes) -> None:
    async def work() -> None:
        head = line + b"\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        async with connected(head, body=SHORT) as (reader, writer, state):

            async def drip() -> None:
                for _ in range(50):
                    await asyncio.sleep(SHORT / 5)
                    writer.write(b"x")

            dripping = asyncio.create_task(drip())
            async with asyncio.timeout(10):
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
                while state.connections:
                    await asyncio.sleep(SHORT / 5)
            assert not dripping.done()
            dripping.cancel()

    run(work())


def test_a_body_after_its_answer_leaves_the_connection() -> None:
    async def work() -> None:
        head = b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
        last = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        async with connected(head, b"ab", b"cd" + last, body=5) as (reader, _, _):
            assert b"GET /last" in await answers(reader)

    run(work())


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize(("path", "requests"), [(b"/large", 1), (b"/large", 3), (b"/small", 1)])
def test_an_answer_has_to_be_read(path: bytes, requests: int, close: bytes) -> None:
    async def work() -> None:
        asked = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n" + close + b"\r\n"
        async with connected(asked * requests, body=SHORT) as (_, _, state):
            assert state.connections
            async with asyncio.timeout(10):
                while state.connections or state.tasks:
                    await asyncio.sleep(SHORT / 5)

    run(work())


def test_who_reads_has_its_whole_answer() -> None:
    async def work() -> None:
        asked = b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        async with connected(asked, body=20) as (reader, _, _):
            assert len(await answers(reader)) > 8_000_000
        async with connected(asked.replace(b"close", b"keep-alive"), body=20) as (reader, _, state):
            (connection,) = state.connections
            async with asyncio.timeout(10):
                await reader.readexactly(8_000_000)
                await reader.read(1024)
                while not connection._leaving.cancelled():  # type: ignore[union-attr]
                    await asyncio.sleep(0.01)
            assert state.connections  # as otherwise at the next answer, which would have less time

    run(work())


def test_what_is_no_http_has_one_answer(caplog: pytest.LogCaptureFixture) -> None:
    """Also where the request was answered before its body went wrong."""

    async def work() -> None:
        for path, status in ((b"/read", b"400"), (b"/unread", b"200")):
            head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            async with connected(head + b"1\r\na\r\n", b"no length\r\n") as (reader, _, _):
                answered = await answers(reader)
                assert answered.startswith(b"HTTP/1.1 " + status)
                assert answered.count(b"HTTP/1.1 ") == 1

    run(work())
    assert not logged(caplog, logging.ERROR)


def logged(caplog: pytest.LogCaptureFixture, level: int) -> Iterable[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


def test_an_upgrade_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        asked = b"GET /first HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        last = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        async with connected(asked, last) as (reader, _, _):
            answered = await answers(reader)
            assert b"GET /first" in answered
            assert b"GET /last" in answered

    run(work())
    assert not logged(caplog, logging.WARNING)


def test_little_is_read_at_once() -> None:
    """What one connection sends is looked at piece by piece, and the others between."""

    class Noting(impatient_protocol(60, 60)):  # type: ignore[misc]
        sizes: ClassVar[list[int]] = []

        def data_received(self, data: bytes) -> None:
            self.sizes.append(len(data))
            super().data_received(data)

    async def work() -> None:
        head = b"POST /read HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        body = b"Content-Length: 2000000\r\n\r\n" + b"x" * 2_000_000
        async with connected(head + body, protocol=Noting) as (reader, _, _):
            assert (await answers(reader)).startswith(b"HTTP/1.1 200")

    run(work())
    assert max(Noting.sizes) <= 64 * 1024
