"""docs/examples/client.py, run as a program against a real server."""

from __future__ import annotations

import base64
import csv
import fcntl
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
def client(
    address: httpx.URL, key: str, shop: Path, feed: str = "feed.csv"
) -> Iterator[subprocess.Popen[str]]:
    picture = next(shop.glob("images/*.jpg"))
    process = subprocess.Popen(
        [sys.executable, CLIENT, str(address), shop / feed, "navy shirt", picture],
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
    assert "waiting, " in errors
    assert "rate_limited" in errors
    check(out)


def test_waits_for_a_service_that_has_too_much_to_do(
    serve: Any, snapshots: Path, shop: Path
) -> None:
    """A write that waits for the log, which another process holds, takes up all there is."""
    secret, key = new_key("shop", "admin")
    limits = {"write_concurrency": 1, "max_queue": 0, "max_body_bytes": 16 << 20}
    with serve(snapshots=snapshots, keys=key.line(), **limits) as running:
        running.client.headers["X-API-Key"] = secret
        assert running.client.delete("/v1/items/nobody").status_code == 200  # makes the log
        other = threading.Thread(target=running.client.delete, args=("/v1/items/nobody",))
        with (snapshots / "delta" / ".lock").open("rb") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            other.start()
            while running.service.writes.computing == 0:
                assert other.is_alive()
            with client(running.client.base_url, secret, shop) as process:
                assert process.stderr is not None
                first = process.stderr.readline()
                log.close()
                out, errors = process.communicate(timeout=60)
        other.join()
    assert process.returncode == 0, first + errors
    assert "waiting, " in first
    assert "overloaded" in first
    check(out)


class Weather:
    """A proxy in front of a real service that does first what bad days bring: `fails` has a status
    to answer with, or 0 to close the connection, for each request.
    """

    def __init__(self, behind: httpx.URL, fails: Iterator[int]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status = next(fails, None)
                if status == 0:
                    self.close_connection = True
                    return
                headers = {"Content-Type": "text/html", "Retry-After": "0"}
                content = b"<h1>Bad weather</h1>"
                if status is None:
                    kept = ("authorization", "content-type")
                    sent = {k: v for k, v in self.headers.items() if k.lower() in kept}
                    url = behind.join(self.path)
                    answer = httpx.request(
                        self.command, url, content=body, headers=sent, timeout=60
                    )
                    status, content = answer.status_code, answer.content
                    headers = {"Content-Type": answer.headers["Content-Type"]}
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = _answer  # noqa: N815 (http.server's names)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = httpx.URL(f"http://127.0.0.1:{self._server.server_port}")

    def __enter__(self) -> Weather:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_sends_again_what_a_balancer_or_a_connection_lost(
    serve: Any, snapshots: Path, shop: Path
) -> None:
    secret, key = new_key("shop", "admin")
    with (
        serve(snapshots=snapshots, keys=key.line(), max_body_bytes=16 << 20) as running,
        Weather(running.client.base_url, iter([502, 504, 0])) as weather,
        client(weather.address, secret, shop) as process,
    ):
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert errors.count("waiting, ") == 3
    assert "RemoteProtocolError" in errors
    check(out)


def test_gives_up_in_the_end(shop: Path) -> None:
    with (
        Weather(httpx.URL("http://127.0.0.1:1"), itertools.repeat(502)) as weather,
        client(weather.address, "fbk_any", shop) as process,
    ):
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("/v1/index: gave up after 30 tries")


def test_types_cells_as_the_catalogue_does_and_fails_where_one_is_refused(
    serve: Any, snapshots: Path, shop: Path, photo: bytes
) -> None:
    secret, key = new_key("shop", "admin")
    with (shop / "feed.csv").open(newline="", encoding="utf-8") as file:
        first, second = itertools.islice(csv.DictReader(file), 2)
    rows = [
        {**first, "stock": "3", "sale": "true", "size": "38", "fits": "S|M"},
        {**second, "stock": "", "sale": "False", "size": "M", "fits": "", "price": "cheap"},
        {**first, "id": "half", "stock": "1.5", "sale": "", "size": "", "fits": ""},
        {**first, "id": "gap", "stock": "", "sale": "", "size": "", "fits": "", "price": "nan"},
    ]
    with (shop / "typed.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    attributes = {"stock": 1, "sale": True, "size": "S", "fits": ["S"]}
    image = base64.b64encode(photo).decode()
    with serve(snapshots=snapshots, keys=key.line(), max_body_bytes=16 << 20) as running:
        running.client.headers["X-API-Key"] = secret
        put = running.client.put(
            "/v1/items/hat", json={"title": "A hat", "attributes": attributes, "images": [image]}
        )
        assert put.status_code == 201
        address = running.client.base_url
        with client(address, secret, shop, feed="typed.csv") as process:
            out, errors = process.communicate(timeout=60)
        item = running.client.get(f"/v1/items/{first['id']}").json()
        half = running.client.get("/v1/items/half").json()
    kept = {name: item["attributes"][name] for name in attributes}
    assert kept == {"stock": 3, "sale": True, "size": "38", "fits": ["S", "M"]}
    assert type(kept["stock"]) is int
    assert half["attributes"]["stock"] == 1.5
    assert f"{second['id']} refused" in out
    assert "'cheap'" in out
    assert "gap refused" in out
    assert "'nan'" in out
    assert (process.returncode, errors) == (1, "2 products were refused, see above\n")


def test_a_feed_without_descriptions_whose_pictures_lie_in_images(
    serve: Any, snapshots: Path, shop: Path
) -> None:
    secret, key = new_key("shop", "admin")
    with (shop / "feed.csv").open(newline="", encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    with (shop / "short.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        name = first["image"].removeprefix("images/")  # as `index build` takes it too
        writer.writerows([["id", "image", "title"], ["new", name, "A navy shirt"]])
    with (
        serve(snapshots=snapshots, keys=key.line(), max_body_bytes=16 << 20) as running,
        client(running.client.base_url, secret, shop, feed="short.csv") as process,
    ):
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert out.startswith("new created")


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
    assert len(CLIENT.read_text(encoding="utf-8").splitlines()) < 80
