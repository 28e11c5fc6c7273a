"""docs/examples/client.py, run as a program against a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.security import new_key

CLIENT = Path(__file__).parents[2] / "docs" / "examples" / "client.py"


@pytest.fixture(scope="module")
def shop(demo_catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with feed.csv, of products that the service does not have, and its pictures."""
    folder = tmp_path_factory.mktemp("shop")
    shutil.copy(demo_catalogue / "val.csv", folder / "feed.csv")
    with tarfile.open(demo_catalogue / "images.tar") as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture
def snapshots(snapshot_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(snapshot_root, tmp_path / "snapshots"))


@contextmanager
def client(address: httpx.URL, key: str, shop: Path) -> Iterator[subprocess.Popen[str]]:
    picture = next(shop.glob("images/*.jpg"))
    process = subprocess.Popen(
        [sys.executable, CLIENT, str(address), shop / "feed.csv", "navy shirt", picture],
        env={**os.environ, "FASHIONBERT_KEY": key},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def check(out: str) -> None:
    *written, by_text, by_picture = out.splitlines()
    assert len(written) == 32
    assert all(line.split()[1] == "created" for line in written), out
    assert by_text.startswith("navy shirt ['demo-")
    assert by_picture.count("'demo-") == 3


def test_feeds_and_searches_within_its_rate_limit(serve: Any, snapshots: Path, shop: Path) -> None:
    secret, key = new_key("shop", "admin")
    limits = {"rate_limit": 0.5, "rate_burst": 1, "max_body_bytes": 16 << 20}
    with (
        serve(snapshots=snapshots, keys=key.line(), **limits) as running,
        client(running.client.base_url, secret, shop) as process,
    ):
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "rate_limited, waiting" in errors
    check(out)


def test_waits_for_a_service_that_has_too_much_to_do(
    serve: Any, snapshots: Path, shop: Path
) -> None:
    secret, key = new_key("shop", "admin")
    limits = {"concurrency": 1, "max_queue": 0, "max_body_bytes": 16 << 20}
    seen = threading.Event()

    def search(address: httpx.URL, thread: int) -> None:
        with httpx.Client(base_url=address, headers={"X-API-Key": secret}, timeout=60) as other:
            number = 0
            while not seen.is_set():
                number += 1
                other.post("/v1/search/text", json={"query": f"dress {thread} {number}"})

    with serve(snapshots=snapshots, keys=key.line(), **limits) as running:
        address = running.client.base_url
        others = [threading.Thread(target=search, args=(address, n)) for n in range(4)]
        for other in others:
            other.start()
        try:
            with client(address, secret, shop) as process:
                assert process.stderr is not None
                first = process.stderr.readline()
                seen.set()
                out, errors = process.communicate(timeout=60)
        finally:
            seen.set()
            for other in others:
                other.join()
    assert process.returncode == 0, first + errors
    assert "overloaded, waiting" in first
    check(out)


def test_says_what_is_wrong(serve: Any, snapshots: Path, shop: Path) -> None:
    _, key = new_key("shop", "admin")
    with (
        serve(snapshots=snapshots, keys=key.line()) as running,
        client(running.client.base_url, "fbk_wrong", shop) as process,
    ):
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "unknown_key" in errors


def test_is_short() -> None:
    assert len(CLIENT.read_text(encoding="utf-8").splitlines()) < 60
