"""What is served changes under load: a new snapshot, writes, and back again."""

from __future__ import annotations

import base64
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from index.build import build
from index.snapshot import Snapshot
from index.snapshot_folder import current, make_current
from model.catalogue import read_catalogue
from model.engine import Engine

OLD, NEW = "00000001", "00000002"


@dataclass
class Load:
    """Threads that ask a service without a pause, and what it has answered."""

    client: httpx.Client
    picture: bytes
    done: threading.Event = field(default_factory=threading.Event)
    failed: list[str] = field(default_factory=list)
    seen: list[tuple[str, frozenset[str]]] = field(default_factory=list)

    def search_all(self) -> None:
        """All products, by their pictures."""
        body = {"query": "red dress", "k": 200, "rerank": False}
        self._keep(self.client.post("/v1/search/text", json=body))

    def search_some(self) -> None:
        """Reranked, by text and by picture, with a filter and facets."""
        body = {"query": "coat", "k": 16, "filters": {"price": {"gt": 0}}, "facets": ["colour"]}
        self._check(self.client.post("/v1/search/text", json=body))
        self._check(self.client.post("/v1/search/image", files={"image": self.picture}))

    def write(self) -> None:
        """A product that comes and goes: it is there after every odd write."""
        body = {"title": "A hat", "attributes": {"price": 1}}
        files = {"product": (None, str(body).replace("'", '"')), "image": ("1.jpg", self.picture)}
        self._check(self.client.put("/v1/items/w", files=files))
        self._check(self.client.delete("/v1/items/w"))

    def _check(self, response: httpx.Response) -> dict[str, Any]:
        if response.status_code not in (200, 201):
            self.failed.append(f"{response.request.url}: {response.text}")
            return {}
        body: dict[str, Any] = response.json()
        return body

    def _keep(self, response: httpx.Response) -> None:
        body = self._check(response)
        if body:
            self.seen.append((body["snapshot"], frozenset(hit["id"] for hit in body["hits"])))

    def again_and_again(self, ask: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                while not self.done.is_set():
                    ask()
            except Exception as error:
                self.failed.append(repr(error))

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def wait_for(self, snapshot: str) -> None:
        """Until an answer of this snapshot has come that was asked for from now on."""
        before, deadline = len(self.seen), time.monotonic() + 60
        while not any(name.startswith(snapshot) for name, _ in self.seen[before + 2 :]):
            assert time.monotonic() < deadline, self.failed[:3]
            time.sleep(0.01)


def test_no_request_fails_and_none_sees_two_versions(
    serve: Any, root: Path, demo_catalogue: Path, engine: Engine, photo: bytes
) -> None:
    with serve(snapshots=root, watch=0.02, cache_bytes=0) as running:
        load = Load(running.client, photo)
        asking = [load.search_all, load.search_all, load.search_some, load.write]
        threads = [load.again_and_again(ask) for ask in asking]
        try:
            load.wait_for(OLD)
            with read_catalogue(
                demo_catalogue / "val.csv", images=demo_catalogue / "images.tar"
            ) as catalogue:
                build(catalogue, engine, root, progress=False)
            load.wait_for(NEW)
            make_current(root, OLD)
            load.wait_for(OLD)
        finally:
            load.done.set()
            for thread in threads:
                thread.join()
    assert load.failed == []
    assert current(root) == OLD
    products = {name: set(Snapshot.open(root, name).ids) for name in (OLD, NEW)}
    assert not products[OLD] & products[NEW]
    for version, ids in load.seen:
        snapshot, _, writes = version.partition("+")
        assert ids == products[snapshot] | ({"w"} if int(writes or 0) % 2 else set()), version
    assert len({version for version, _ in load.seen}) > 3


JUNK = base64.b64encode(b"junk").decode()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage is collected: what is in a cycle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/search/text", {"query": " "}),
        ("POST", "/v1/search/text", {"query": "dress", "filters": {"none": 1}}),
        ("POST", "/v1/search/image", {"image": JUNK}),
        ("POST", "/v1/match", {"pairs": [{"text": "dress", "image_item_id": "none"}]}),
        ("PUT", "/v1/items/w", {"title": "A hat"}),
        ("PUT", "/v1/items/w", {"title": "A hat", "images": [JUNK]}),
        ("POST", "/v1/items:batch", [{"op": "put", "id": "w", "title": "A hat"}]),
        ("POST", "/v1/items:batch", [{"op": "put", "id": "w", "title": "A", "images": [JUNK]}]),
    ],
)
def test_a_refused_request_holds_no_view(
    method: str, path: str, body: object, serve: Any, root: Path
) -> None:
    """Nor the snapshot below it, which could not be pruned."""
    with serve(snapshots=root, watch=60) as running:
        latest = weakref.ref(running.service.live.index.latest)
        answer = running.client.request(method, path, json=body)
        assert answer.status_code in (400, 404, 422) or answer.json()["refused"] == 1
        assert running.client.delete("/v1/items/w").status_code == 200
        deadline = time.monotonic() + 10
        while latest() is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
