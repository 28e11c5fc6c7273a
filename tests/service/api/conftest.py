"""A server that is written to, and what is written."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

Worker = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def worker(serve: Any, root: Path) -> Worker:
    """Starts a server that writes to `root`."""

    @contextmanager
    def run(**changes: Any) -> Iterator[httpx.Client]:
        with serve(snapshots=root, watch=0.02, **changes) as running:
            yield running.client

    return run


@pytest.fixture
def writing(worker: Worker) -> Iterator[httpx.Client]:
    """A client of such a server."""
    with worker() as client:
        yield client


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Draws a picture of one colour."""

    def draw(colour: str, side: int = 80, format: str = "JPEG") -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (side, side + 16), colour).save(buffer, format)
        return buffer.getvalue()

    return draw


@pytest.fixture
def product(picture: Callable[..., bytes]) -> Callable[..., dict[str, Any]]:
    """The body of a put, with a picture of its colour."""

    def body(colour: str = "red", **fields: Any) -> dict[str, Any]:
        return {
            "title": "A dress",
            "description": "Long.",
            "attributes": {"colour": colour},
            "images": [base64.b64encode(picture(colour)).decode()],
            **fields,
        }

    return body


@pytest.fixture
def found() -> Callable[..., list[str]]:
    """Searches for dresses: the ids of all that is found."""

    def search(client: httpx.Client, **request: Any) -> list[str]:
        answer = client.post("/v1/search/text", json={"query": "dress", "k": 200, **request})
        assert answer.status_code == 200, answer.text
        return [hit["id"] for hit in answer.json()["hits"]]

    return search


@pytest.fixture
def batch() -> Callable[..., dict[str, Any]]:
    """Sends operations as one batch, which is taken; the answer."""

    def send(client: httpx.Client, *operations: Any) -> dict[str, Any]:
        answer = client.post("/v1/items:batch", json=list(operations))
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    return send
