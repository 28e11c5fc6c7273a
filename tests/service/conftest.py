"""A real snapshot, a real server on loopback, and pictures that must be refused."""

from __future__ import annotations

import csv
import io
import logging
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from redis import Redis
from redis import exceptions as redis_errors

from index.build import build
from index.live_index import LiveIndex
from index.snapshot import Snapshot
from model.bundle import Bundle
from model.catalogue import read_catalogue
from model.engine import Engine
from service.api.app import create_app
from service.api.state import Service
from service.cli.__main__ import main
from service.live_search import LiveSearch
from service.search import Searcher
from service.server import make_server
from service.settings import Settings

#: Ids that an address, a header or a terminal can trip over, in the first rows of the feed.
ODD_IDS = ("summer/dresses/1", "été ✓ #1?a=b&c%20", "../etc/passwd", "-k")
ODD_TITLE = "[red]bold[/red] <b>\x1b[31mhat</b>"


@pytest.fixture(scope="session")
def feed(demo_catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo catalogue's train.csv with odd ids and one odd title."""
    with (demo_catalogue / "train.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, id in zip(rows, ODD_IDS, strict=False):
        row["id"] = id
    rows[3]["title"] = ODD_TITLE
    path = tmp_path_factory.mktemp("feed") / "feed.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def snapshot_root(
    feed: Path, demo_catalogue: Path, engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with one snapshot, of `bundle`'s model."""
    root = tmp_path_factory.mktemp("service") / "snapshots"
    with read_catalogue(feed, images=demo_catalogue / "images.tar") as catalogue:
        build(catalogue, engine, root, progress=False)
    return root


@pytest.fixture
def root(snapshot_root: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be changed."""
    return Path(shutil.copytree(snapshot_root, tmp_path / "snapshots"))


@pytest.fixture(scope="session")
def snapshot(snapshot_root: Path) -> Snapshot:
    return Snapshot.open(snapshot_root)


@pytest.fixture(scope="session")
def searcher(engine: Engine, snapshot: Snapshot) -> Searcher:
    return Searcher(engine, snapshot)


@pytest.fixture(scope="session")
def settings(bundle: Bundle, snapshot_root: Path) -> Settings:
    """Small limits, so that what goes beyond them is small too."""
    return Settings(
        bundle=bundle.path,
        snapshots=snapshot_root,
        threads=2,
        candidates=16,
        max_k=200,
        max_candidates=100,
        max_pairs=8,
        max_upload_bytes=150_000,
        max_body_bytes=300_000,
    )


@pytest.fixture
def live(engine: Engine, snapshot_root: Path) -> LiveSearch:
    """The same as an app has it."""
    return LiveSearch(engine, LiveIndex.open(snapshot_root))


@contextmanager
def serving(app: FastAPI, listener: socket.socket | None = None) -> Iterator[str]:
    """Run an app as `serve` does, by default on a free port of loopback; yields its address."""
    listener = listener or socket.create_server(("127.0.0.1", 0))
    server = make_server(app, app.state.service.settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(name="serving")
def serving_fixture() -> Callable[..., AbstractContextManager[str]]:
    """`serving`, for tests that make an app of their own."""
    return serving


@contextmanager
def asking(address: str) -> Iterator[httpx.Client]:
    """A client of a service on loopback that is ready."""
    # Without certificates: to read them takes as long as many a test, and here is no TLS.
    with httpx.Client(base_url=address, timeout=60, verify=False) as client:
        deadline = time.monotonic() + 60
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline, "the service did not get ready"
            time.sleep(0.02)
        yield client


@pytest.fixture(scope="session")
def address(settings: Settings) -> Iterator[str]:
    """Where a real server answers."""
    with serving(create_app(settings)) as address, asking(address):
        yield address


@pytest.fixture(scope="session")
def client(address: str) -> Iterator[httpx.Client]:
    with asking(address) as client:
        yield client


@dataclass(frozen=True)
class Running:
    """A real server of one's own: a client to ask it, and what the app holds."""

    client: httpx.Client
    service: Service


Serve = Callable[..., AbstractContextManager[Running]]


@pytest.fixture
def serve(settings: Settings, engine: Engine) -> Serve:
    """Starts a server with some settings changed; what it serves it looks at every `watch` s."""

    @contextmanager
    def run(watch: float = 0.5, delta_limit: int = 20_000, **changes: object) -> Iterator[Running]:
        changed = Settings(**{**settings.model_dump(), **changes})
        index = LiveIndex.open(changed.snapshots, engine=engine, limit=delta_limit)
        index.watch(watch)
        app = create_app(changed, LiveSearch(engine, index, changed.search_limits))
        with serving(app) as address, asking(address) as client:
            yield Running(client, app.state.service)

    return run


@dataclass
class RedisServer:
    """A real Redis of one's own."""

    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program is not None
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self.process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while True:
            try:
                with self.client() as redis:
                    redis.ping()
                    return
            except redis_errors.RedisError:
                assert time.monotonic() < deadline, "Redis did not start"
                time.sleep(0.02)

    def client(self) -> Redis:
        """For the test's own questions."""
        return Redis(port=self.port, socket_timeout=60)

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis server; skipped where there is none to start."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = RedisServer(port)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def photo(snapshot: Snapshot) -> bytes:
    """A JPEG that is taken: a product's picture."""
    return snapshot.image(5)[0]


def png_bomb(side: int = 20_000) -> bytes:
    """A whole and valid PNG of side × side pixels, 50 KB for 400 million of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + side // 8) * side), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@dataclass(frozen=True)
class BadPicture:
    data: bytes
    code: str
    status: int


def _encoded(format: str) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(buffer, format)
    return buffer.getvalue()


BAD_PICTURES = {
    "a text file": BadPicture(b"id,title\n1,dress\n" * 40, "not_an_image", 400),
    "nothing": BadPicture(b"", "not_an_image", 400),
    "a truncated JPEG": BadPicture(_encoded("JPEG")[:1500], "truncated", 400),
    "a truncated PNG": BadPicture(_encoded("PNG")[:1500], "truncated", 400),
    "a PNG bomb": BadPicture(png_bomb(), "too_many_pixels", 413),
    "a GIF": BadPicture(_encoded("GIF"), "unsupported_format", 415),
    "a BMP": BadPicture(_encoded("BMP")[:100_000], "unsupported_format", 415),
    "too many bytes": BadPicture(_encoded("JPEG") + bytes(150_000), "too_many_bytes", 413),
}


@pytest.fixture(params=BAD_PICTURES)
def bad_picture(request: pytest.FixtureRequest) -> BadPicture:
    return BAD_PICTURES[request.param]


@pytest.fixture(scope="session")
def bad_pictures() -> list[BadPicture]:
    return list(BAD_PICTURES.values())


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


Shell = Callable[..., Ran]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Runs `fashionbert` with arguments, through its entry point."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["fashionbert", *map(str, arguments)])
        root = logging.getLogger()
        before, level = root.handlers[:], root.level
        try:
            with pytest.raises(SystemExit) as caught:  # also a command that went well ends so
                main()
        finally:  # `serve` sends the log to standard error
            root.handlers[:] = before
            root.setLevel(level)
        printed = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return Ran(caught.value.code, printed.out, printed.err)

    return run
