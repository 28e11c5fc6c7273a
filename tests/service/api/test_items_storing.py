"""What becomes of writes: other servers, a full log, a disk that fails, a log that is held."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anyio
import httpx

from index.snapshot import Snapshot
from service.api.app import create_app
from service.settings import Settings

Make = Callable[..., Any]
Worker = Callable[..., AbstractContextManager[httpx.Client]]


def test_two_servers_of_one_folder(
    picture: Make, product: Make, found: Make, worker: Worker, snapshot: Snapshot
) -> None:
    with worker() as one, worker() as other:
        assert one.put("/v1/items/a", json=product()).status_code == 201
        one.delete(f"/v1/items/{snapshot.ids[12]}")
        deadline = time.monotonic() + 60
        while other.get("/v1/items/a").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "a" in found(other, rerank=False)
        # At once, whatever the other has seen yet: what was answered for is there.
        one.put("/v1/items/b", json=product("green"))
        kept = other.put("/v1/items/b", json={"title": "Now cheaper"})
        assert (kept.status_code, kept.json()["outcome"]) == (200, "replaced")
        assert other.get("/v1/items/b/image").content == picture("green")
    with worker() as again:
        ids = found(again, rerank=False)
        assert {"a", "b"} <= set(ids)
        assert snapshot.ids[12] not in ids


def test_a_full_delta(product: Make, worker: Worker) -> None:
    with worker(delta_limit=2) as client:
        for id in "ab":
            assert client.put(f"/v1/items/{id}", json=product()).status_code == 201
        full = client.put("/v1/items/c", json=product())
        assert (full.status_code, full.json()["code"]) == (507, "delta_full")
        assert "fashionbert index compact" in full.json()["detail"]
        assert client.delete("/v1/items/a").status_code == 200


def test_a_disk_that_fails(product: Make, writing: httpx.Client, root: Path) -> None:
    (root / "delta").write_text("no folder")
    failed = writing.put("/v1/items/a", json=product())
    assert (failed.status_code, failed.json()["code"]) == (503, "write_failed")
    assert "the write could not be stored (" in failed.json()["detail"]
    assert str(root) not in failed.text
    assert 'refused_total{reason="write_failed"} 1.0' in writing.get("/metrics").text
    assert writing.get("/v1/items/a").status_code == 404
    (root / "delta").unlink()
    assert writing.put("/v1/items/a", json=product()).status_code == 201


def test_until_it_is_ready_it_takes_no_writes(
    product: Make, settings: Settings, root: Path
) -> None:
    app = create_app(settings.model_copy(update={"snapshots": root}))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.put("/v1/items/a", json=product())

    refused = anyio.run(ask)
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert not (root / "delta").exists()


def test_writes_that_wait_for_the_log_hold_up_no_search(
    product: Make, found: Make, worker: Worker, root: Path
) -> None:
    with worker(concurrency=1, write_concurrency=1, max_queue=0) as client:
        assert client.delete("/v1/items/nobody").json()["outcome"] == "absent"  # makes the log
        answers: list[httpx.Response] = []
        write = threading.Thread(
            target=lambda: answers.append(client.put("/v1/items/new", json=product()))
        )
        with (root / "delta" / ".lock").open("rb") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            write.start()
            while client.get("/v1/status").json()["queue"]["computing"] == 0:
                assert write.is_alive()
            assert "new" not in found(client)
            refused = client.delete("/v1/items/nobody")
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        write.join()
        assert answers[0].status_code == 201
        assert "new" in found(client)
