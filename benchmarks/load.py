"""A load on a server: so many clients, each sending its next request when it has its answer.

A process of its own: `run` starts it, and `python -m benchmarks.load JSON` is what it starts.
"""

from __future__ import annotations

import itertools
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

from benchmarks.contender import bound
from benchmarks.measure import percentiles
from benchmarks.settings import ROOT

#: What a request is made of, by kind: method, path, and the body for a query.
Body = Callable[[str], dict[str, Any]]


def run(address: str, kind: str, clients: int, seconds: float, **given: Any) -> dict[str, Any]:
    """Load a server and say how it did.

    Args:
        address: of the server.
        kind: a key of `kinds`.
        clients: that send at the same time.
        seconds: during which new requests are sent; those under way are waited for.
        given: `words`, `query_words`, `seed`, and what the kind needs: `ids` or `documents`.

    Returns:
        `requests` answered and `failed` by status, `seconds` until the last answer, requests
        `per_second`, and `ms`: p50, p95, p99 and their number.
    """
    fields = {"address": address, "kind": kind, "clients": clients, "seconds": seconds, **given}
    command = bound([sys.executable, "-m", "benchmarks.load"])
    done = subprocess.run(
        command, input=json.dumps(fields), text=True, capture_output=True, cwd=ROOT, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the load on {address} failed: {done.stderr[-2000:]}")
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def kinds(given: dict[str, Any]) -> dict[str, tuple[str, str, Body]]:
    """Method, path and body of each kind of request."""
    return {
        "health": ("GET", "/healthz", lambda query: {}),
        "search": ("POST", "/v1/search/text", lambda query: {"query": query, "k": 10}),
        "match": (
            "POST",
            "/v1/match",
            lambda query: {
                "pairs": [{"text": query, "image_item_id": one} for one in given["ids"]]
            },
        ),
        "infinity": (
            "POST",
            "/rerank",
            lambda query: {
                "model": "cross-encoder",
                "query": query,
                "documents": given["documents"],
                "return_documents": False,
            },
        ),
    }


def _queries(given: dict[str, Any]) -> Iterator[str]:
    """No query comes twice: a cache would answer it."""
    rng = random.Random(given["seed"])
    while True:
        yield " ".join(rng.choices(given["words"], k=given["query_words"]))


class _Client:
    """One caller with one connection, which is kept.

    A socket and no library: what a client's own code takes comes from the very cores that the
    server is measured on, and is not the server's (docs/EXPERIMENTS.md).
    """

    def __init__(self, address: str, method: str, path: str) -> None:
        url = urlsplit(address)
        assert url.hostname is not None
        self._socket = socket.create_connection((url.hostname, url.port or 80), timeout=600)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = (
            f"{method} {path} HTTP/1.1\r\nhost: {url.netloc}\r\n"
            "content-type: application/json\r\ncontent-length: "
        )
        self._has_body = method == "POST"

    def request(self, body: dict[str, Any]) -> bytes:
        """What is sent for a body."""
        content = json.dumps(body) if self._has_body else ""
        return f"{self._head}{len(content)}\r\n\r\n{content}".encode("ascii")

    def ask(self, request: bytes) -> tuple[int, float]:
        """The status, and the seconds to wait before another try where it is no answer.

        Raises:
            ConnectionError: the server closed the connection.
            ValueError: it answered without saying how long the answer is.
        """
        self._socket.sendall(request)
        answer = self._received(b"")
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer = self._received(answer)
        head = answer[:end].lower() + b"\r\n"
        size = _field(head, b"content-length")
        if size is None:
            raise ValueError(f"an answer of unknown length: {head.decode('latin-1')}")
        whole = end + 4 + int(size)
        while len(answer) < whole:
            answer = self._received(answer)
        return int(head[9:12]), float(_field(head, b"retry-after") or 0.1)

    def _received(self, before: bytes) -> bytes:
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        return before + data

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _field(head: bytes, name: bytes) -> bytes | None:
    """The value of a field of a head in small letters, whose last line ends like all others."""
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest[: rest.index(b"\r\n")].strip() if found else None


def _load(given: dict[str, Any]) -> dict[str, Any]:
    method, path, body = kinds(given)[given["kind"]]
    queries = _queries(given)
    drawing = threading.Lock()
    clients = [_Client(given["address"], method, path) for _ in range(given["clients"])]

    def next_body() -> dict[str, Any]:
        with drawing:
            return body(next(queries))

    def load(client: _Client, end: float) -> tuple[list[float], Counter[str]]:
        milliseconds: list[float] = []
        failed: Counter[str] = Counter()
        while True:  # at least once, however late a slow machine comes to it
            request = client.request(next_body())
            start = time.perf_counter()
            status, wait = client.ask(request)
            if status == 200:
                milliseconds.append(1000 * (time.perf_counter() - start))
            else:
                failed[str(status)] += 1
                time.sleep(wait)
            if time.perf_counter() >= end:
                return milliseconds, failed

    with ExitStack() as stack:
        for client in clients:
            stack.callback(client.close)
        for _ in range(2):  # the first connection, the first batch of its length
            clients[0].ask(clients[0].request(next_body()))
        start = time.perf_counter()
        with ThreadPoolExecutor(len(clients)) as pool:
            ends = [start + given["seconds"]] * len(clients)
            found = list(pool.map(load, clients, ends))
        seconds = time.perf_counter() - start
    milliseconds = [one for part, _ in found for one in part]
    failed = sum((part for _, part in found), Counter())
    return {
        "requests": len(milliseconds),
        "failed": dict(failed),
        "seconds": seconds,
        "per_second": len(milliseconds) / seconds,
        "ms": percentiles(milliseconds) if milliseconds else None,
    }


def seeds() -> Iterator[int]:
    """A seed for each load, so that their queries differ."""
    return itertools.count(1)


if __name__ == "__main__":
    print(json.dumps(_load(json.load(sys.stdin))))
