"""A load on a server: so many clients, each sending its next request when it has its answer.

A process of its own: `run` starts it, and `python -m benchmarks.load JSON` is what it starts.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx

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


async def _load(given: dict[str, Any]) -> dict[str, Any]:
    method, path, body = kinds(given)[given["kind"]]
    queries = _queries(given)
    milliseconds: list[float] = []
    failed: Counter[str] = Counter()
    clients = given["clients"]
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(
        base_url=given["address"], limits=limits, timeout=600, trust_env=False
    ) as http:

        async def ask() -> None:
            content = json.dumps(body(next(queries))) if method == "POST" else None
            headers = {"content-type": "application/json"}
            start = time.perf_counter()
            answer = await http.request(method, path, content=content, headers=headers)
            if answer.status_code == 200:
                milliseconds.append(1000 * (time.perf_counter() - start))
            else:
                failed[str(answer.status_code)] += 1
                await asyncio.sleep(float(answer.headers.get("retry-after", 0.1)))

        async def client(end: float) -> None:
            await ask()  # at least one, however late a slow machine comes to it
            while time.perf_counter() < end:
                await ask()

        for _ in range(2):  # the first connection, the first batch of its length
            await ask()
        milliseconds.clear()
        failed.clear()
        start = time.perf_counter()
        await asyncio.gather(*(client(start + given["seconds"]) for _ in range(clients)))
        seconds = time.perf_counter() - start
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
    print(json.dumps(asyncio.run(_load(json.load(sys.stdin)))))
