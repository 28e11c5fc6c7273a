"""The repository's Dockerfiles and compose file, built and run for real with the engine there is.

Skipped where there is none: neither podman with podman-compose nor docker with compose.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from model.bundle import Bundle
from service.security import new_key

ROOT = Path(__file__).parents[2]
BASE = "docker.io/library/python:3.11-slim"
REDIS = "docker.io/library/redis:7"


Run = Callable[..., subprocess.CompletedProcess[str]]


def run(
    *command: str | Path,
    env: dict[str, str] | None = None,
    timeout: float = 300,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository."""
    # An engine's network helpers lie where an ordinary user's PATH does not look.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "BUILDAH_FORMAT": "docker", **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


HasImage = Callable[[str], bool]


def _has_image(engine: str, image: str) -> bool:
    """Whether an image is there, or can be fetched."""
    if run(engine, "image", "inspect", image).returncode == 0:
        return True
    try:
        return run(engine, "pull", "--quiet", image, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@functools.cache
def _compose() -> tuple[str, ...] | str:
    """The command of a compose that works here, or why there is none."""
    for engine, compose in (("podman", ("podman-compose",)), ("docker", ("docker", "compose"))):
        if not all(shutil.which(program) for program in (engine, compose[0])):
            continue
        if run(engine, "info").returncode or run(*compose, "version").returncode:
            continue
        for image in (BASE, REDIS):
            if not _has_image(engine, image):
                return f"{engine} cannot get the image {image}"
        return compose
    return "no container engine: neither podman with podman-compose nor docker with compose"


@pytest.fixture(scope="session")
def command() -> Run:
    """Runs a command in the repository."""
    return run


@pytest.fixture(scope="session")
def compose() -> tuple[str, ...]:
    """The command of compose."""
    found = _compose()
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.fixture(scope="session")
def engine(compose: tuple[str, ...]) -> str:
    """`podman` or `docker`."""
    return compose[0].removesuffix("-compose")


@pytest.fixture(scope="session")
def has_image(engine: str) -> HasImage:
    """Whether an image is there, or can be fetched."""
    return functools.partial(_has_image, engine)


@dataclass(frozen=True)
class Stack:
    """One run of the compose file, with names and a port of its own."""

    compose: tuple[str, ...]
    name: str
    port: int
    env: dict[str, str]
    key: str

    @property
    def address(self) -> str:
        """Of the balancer."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def engine(self) -> str:
        return self.compose[0].removesuffix("-compose")

    def __call__(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run compose."""
        file = ROOT / "docker-compose.yml"
        return run(
            *self.compose, "-p", self.name, "-f", file, *arguments, env=self.env, timeout=timeout
        )

    def up(self, *arguments: str) -> None:
        """Start, and wait until the balancer passes searches on."""
        started = self("up", "-d", *arguments)
        assert started.returncode == 0, started.stderr
        wait_until(self.ready, f"{self.name} is ready", self.logs)

    def wait_for_replicas(self, count: int) -> None:
        """Wait until so many api containers are there and ready."""
        script = """
def ready(replica):
    try:
        return replica.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False

print(json.dumps([ready(replica) for replica in replicas]))
"""
        self.wait_until(lambda: self.python(script) == [True] * count, f"{count} replicas")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Ask until it is so."""
        wait_until(condition, what, self.logs)

    def traffic(self) -> Traffic:
        """Searches that go on meanwhile."""
        return Traffic(self)

    def remove(self) -> None:
        """End it and leave nothing of it behind, not even what compose has lost sight of."""
        label = f"--filter=label=com.docker.compose.project={self.name}"
        listed = run(self.engine, "ps", "--all", "--quiet", label).stdout.split()
        run(self.engine, "kill", *listed)  # at once: a stop would wait for each one's grace
        run(self.engine, "rm", "--force", *listed)
        self("down", "--volumes", "--remove-orphans", "--timeout", "1")
        for volume in run(self.engine, "volume", "ls", "--quiet", label).stdout.split():
            run(self.engine, "volume", "rm", "--force", volume)

    def ready(self) -> bool:
        """Whether a search would be answered."""
        try:
            return httpx.get(f"{self.address}/readyz", verify=False).status_code == 200
        except httpx.TransportError:
            return False  # nothing listens yet

    def logs(self) -> str:
        """What the containers said last."""
        said = []
        for service in ("demo", "indexer", "api", "balancer"):
            logs = self("logs", "--tail", "20", service, timeout=60)
            said.append(logs.stdout[-3000:] + logs.stderr[-3000:])
        return "\n".join(said)

    def containers(self, service: str) -> list[str]:
        """The names of a service's containers that run."""
        labels = {"project": self.name, "service": service}
        filters = [f"label=com.docker.compose.{label}={value}" for label, value in labels.items()]
        listed = run(
            self.engine, "ps", *(f"--filter={each}" for each in filters), "--format={{.Names}}"
        )
        return sorted(listed.stdout.split())

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script in an api container, as the user it serves as."""
        return run(self.engine, "exec", self.containers("api")[0], "sh", "-c", script, timeout=60)

    def python(self, script: str, *arguments: str) -> Any:
        """What a script that runs in an api container prints as JSON.

        It finds `replicas`, clients of all api containers, and `admin`, the headers of a key.
        """
        ran = run(
            self.engine,
            *("exec", "-i", self.containers("api")[0], "python", "-", self.key, *arguments),
            stdin=_PREAMBLE + script,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)


_PREAMBLE = """
import json, socket, sys, time
import httpx

key, *arguments = sys.argv[1:]
admin = {"Authorization": f"Bearer {key}"}
addresses = sorted({each[4][0] for each in socket.getaddrinfo("api", 8080, socket.AF_INET)})
replicas = [httpx.Client(base_url=f"http://{each}:8080", timeout=60) for each in addresses]
"""


def wait_until(
    condition: Callable[[], bool], what: str, why_not: Callable[[], str] = str, seconds: float = 90
) -> None:
    """Ask until it is so; the test fails when it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}\n{why_not()}"
        time.sleep(0.2)


def _new_stack(compose: tuple[str, ...], images: Images, **env: str) -> Stack:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    secret, key = new_key("test", "admin")
    ours = {
        "FASHIONBERT_IMAGE": images.service,
        "FASHIONBERT_BALANCER_IMAGE": images.balancer,
        "FASHIONBERT_PORT": str(port),
        "FASHIONBERT_DEMO": "16",
        "FASHIONBERT_THREADS": "1",
        "FASHIONBERT_KEYS": key.line(),
    }
    name = f"fashionbert-test-{uuid.uuid4().hex[:8]}"
    return Stack(compose, name, port, {**ours, **env}, secret)


@contextlib.contextmanager
def _started(stack: Stack, *arguments: str) -> Iterator[Stack]:
    """The stack, up; afterwards nothing of it is left."""
    try:
        stack.up(*arguments)
        yield stack
    finally:
        stack.remove()


@dataclass(frozen=True)
class Images:
    """What the Dockerfiles make."""

    service: str
    balancer: str


@pytest.fixture(scope="session")
def images(compose: tuple[str, ...], engine: str) -> Iterator[Images]:
    """The images, built by compose; removed afterwards.

    FASHIONBERT_TEST_IMAGES names two that are there: `fashionbert:cpu,fashionbert:balancer`.
    """
    given = os.environ.get("FASHIONBERT_TEST_IMAGES")
    if given:
        yield Images(*given.split(","))
        return
    tag = f"localhost/fashionbert-test-{uuid.uuid4().hex[:8]}"
    images = Images(f"{tag}:cpu", f"{tag}:balancer")
    try:
        for service in ("demo", "balancer"):
            built = _new_stack(compose, images)("build", service, timeout=600)
            assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
        yield images
    finally:
        run(engine, "rmi", "--force", images.service, images.balancer)


@pytest.fixture(scope="session")
def shop(demo_catalogue: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with feed.csv and its pictures, which may change."""
    folder = tmp_path_factory.mktemp("shop") / "catalogue"
    folder.mkdir()
    shutil.copy(demo_catalogue / "val.csv", folder / "feed.csv")
    shutil.copy(demo_catalogue / "images.tar", folder)
    return folder


@pytest.fixture(scope="session")
def stack(compose: tuple[str, ...], images: Images, shop: Path, bundle: Bundle) -> Iterator[Stack]:
    """Three api containers over a catalogue and a model of one's own."""
    own = _new_stack(
        compose,
        images,
        FASHIONBERT_BUNDLE_DIR=str(bundle.path),
        FASHIONBERT_CATALOGUE_DIR=str(shop),
        FASHIONBERT_FEED="feed.csv",
        FASHIONBERT_INDEX_OPTIONS='--text "{title}. {description}"',
    )
    with _started(own, "--scale", "api=3"):
        own.wait_for_replicas(3)
        yield own


@pytest.fixture
def new_stack(
    compose: tuple[str, ...], images: Images
) -> Callable[..., contextlib.AbstractContextManager[Stack]]:
    """Brings up a stack of one's own, with some variables set."""

    def start(**env: str) -> contextlib.AbstractContextManager[Stack]:
        return _started(_new_stack(compose, images, **env))

    return start


class Traffic:
    """Searches through the balancer, one after another and each another one, in threads."""

    def __init__(self, stack: Stack, threads: int = 2) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self.dropped = 0
        self._stack = stack
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._search, args=(n,)) for n in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def more(self, searches: int = 20) -> None:
        """Wait until so many more were answered."""
        wanted = self.answered + searches
        wait_until(lambda: self.answered >= wanted or bool(self.failed), "searches are answered")
        assert not self.failed, self.failed

    def _search(self, thread: int) -> None:
        with httpx.Client(base_url=self._stack.address, timeout=60) as client:
            number = 0
            while not self._end.is_set():
                number += 1
                query = {"query": f"dress {thread} {number}", "k": 3}
                try:
                    answer = client.post("/v1/search/text", json=query)
                except httpx.RemoteProtocolError:  # a kept connection was closed: RFC 9112, 9.3.1
                    self.dropped += 1
                    continue
                except httpx.TransportError as error:
                    self.failed.append(repr(error))
                    continue
                if answer.status_code == 200 and len(answer.json()["hits"]) == 3:
                    self.answered += 1
                else:
                    self.failed.append(answer.text)
