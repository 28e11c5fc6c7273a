from __future__ import annotations

import contextlib
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from service.settings import Settings

PATHS = ["/v1/search/text", "/v1/search/image", "/v1/match"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long(
    chunked: bool, kind: str, path: str, client: httpx.Client, settings: Settings
) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    start = b'{"query": "' if "json" in kind else head
    body = start + b"a" * settings.max_body_bytes

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(body), 10_000):
            yield body[at : at + 10_000]

    response = client.post(
        path, content=pieces() if chunked else body, headers={"Content-Type": kind}
    )
    if path != "/v1/search/image" and "json" not in kind:
        # Not read as a form by these two; refused for whichever is noticed first.
        assert response.status_code in (413, 422)
    else:
        assert (response.status_code, response.json()["code"]) == (413, "too_many_bytes")
        assert response.headers["content-type"] == "application/problem+json"


def test_bytes_then_pixels_then_decoding(client: httpx.Client, settings: Settings) -> None:
    """Each is looked at before more is spent on a picture that fails the next ones too."""

    def code(data: bytes) -> str:
        return str(client.post(PATHS[1], files={"image": data}).json()["code"])

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    size = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", b"nothing that could be decoded")
    huge = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + pixels
    assert code(huge + bytes(settings.max_upload_bytes)) == "too_many_bytes"
    assert code(huge) == "too_many_pixels"
    assert code(b"GIF89a" + bytes(settings.max_upload_bytes)) == "too_many_bytes"


def test_an_announced_length_is_refused_before_the_body_comes(address: str) -> None:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/search/text HTTP/1.1\r\nHost: test\r\n"
            b"Content-Type: application/json\r\nContent-Length: 1000000000000\r\n\r\n"
        )
        answer = connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_body_just_within_the_limit_is_read(client: httpx.Client, settings: Settings) -> None:
    start, end = b'{"query": "red"', b"}"
    blanks = b" " * (settings.max_body_bytes - len(start) - len(end))
    body = start + blanks + end
    headers = {"Content-Type": "application/json"}
    assert client.post("/v1/search/text", content=body, headers=headers).status_code == 200
    over = client.post("/v1/search/text", content=body + b" ", headers=headers)
    assert over.status_code == 413


def test_a_text_search_has_a_small_body(serve: Any) -> None:
    body = b'{"query": "red"' + b" " * (1024**2 - 16) + b"}"
    headers = {"Content-Type": "application/json"}
    with serve(max_body_bytes=4 * 1024**2) as running:
        assert running.client.post(PATHS[0], content=body, headers=headers).status_code == 200
        over = running.client.post(PATHS[0], content=body + b" ", headers=headers)
        assert (over.status_code, over.json()["code"]) == (413, "too_many_bytes")
        assert (
            running.client.post(PATHS[2], content=body + b" ", headers=headers).status_code == 422
        )


def test_bodies_of_several_requests_share_a_limit(serve: Any) -> None:
    """One that is held open, and one that would be too much beside it; a small one is let in."""
    body = b'{"query": "red"'.ljust(399_998) + b"}"  # a byte less than there is room for
    headers = {"Content-Type": "application/json"}
    with serve(max_body_bytes=400_000, max_bodies_bytes=400_000) as running:
        client: httpx.Client = running.client
        answers: list[int] = []
        begun, go_on = threading.Event(), threading.Event()

        def slowly() -> Iterator[bytes]:
            yield body[:-1]
            begun.set()
            go_on.wait(60)
            yield body[-1:]

        def hold() -> None:
            answers.append(client.post(PATHS[0], content=slowly(), headers=headers).status_code)

        holding = threading.Thread(target=hold)
        holding.start()
        assert begun.wait(60)
        # It is sent, and has arrived when the server has looked at all that was sent a few times.
        for _ in range(50):
            client.get("/healthz")
        refused = client.post(PATHS[0], content=body, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        metrics = client.get("/metrics").text
        assert 'fashionbert_refused_total{reason="overloaded"} 1.0' in metrics
        assert client.post(PATHS[0], json={"query": "red"}).status_code == 200
        go_on.set()
        holding.join()
        assert answers == [200]
        assert client.post(PATHS[0], content=body, headers=headers).status_code == 200


@pytest.mark.parametrize("path", [*PATHS, "/v1/items:batch"])
def test_a_body_that_takes_too_long_gives_back_what_it_held(path: str, serve: Any) -> None:
    body = b'{"query": "red"' + b" " * 300_000 + b"}"
    headers = {"Content-Type": "application/json"}
    with serve(max_body_bytes=400_000, max_bodies_bytes=500_000, body_seconds=0.5) as running:
        client: httpx.Client = running.client
        parts = urlsplit(str(client.base_url))
        with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
            connection.sendall(
                b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body[:-9])
            )
            stop = threading.Event()

            def trickle() -> None:
                with contextlib.suppress(OSError):
                    while not stop.wait(0.1):
                        connection.sendall(b" ")

            trickling = threading.Thread(target=trickle)
            trickling.start()
            # The answer's own length ends it: after it the server closes a connection that is
            # still being written to, which the caller may see as a reset.
            with HTTPResponse(connection) as answer:
                answer.begin()
                status, detail = answer.status, answer.read()
            stop.set()
            trickling.join()
        assert status == 408
        assert b'"code":"slow_body"' in detail
        assert client.post(PATHS[0], content=body, headers=headers).status_code == 200
        metrics = client.get("/metrics").text
        assert 'fashionbert_refused_total{reason="slow_body"} 1.0' in metrics
