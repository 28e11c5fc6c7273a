"""The repository's Dockerfile and compose file, built and run for real."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import subprocess
import sysconfig
import tarfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from model.bundle import Bundle
from model.pretrained import pretrained

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "api.Dockerfile"
BASE = "docker.io/library/python:3.11-slim"


def _run(
    *command: str | Path, env: dict[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    # An engine's network helpers lie where an ordinary user's PATH does not look.
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PATH": path, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@functools.cache
def _engine() -> tuple[str, ...] | str:
    """The command of a compose that works here, or why there is none."""
    for engine, compose in (("podman", ("podman-compose",)), ("docker", ("docker", "compose"))):
        if not all(shutil.which(program) for program in (engine, compose[0])):
            continue
        if _run(engine, "info").returncode or _run(*compose, "version").returncode:
            continue
        if _run(engine, "image", "inspect", BASE).returncode:
            try:
                pulled = _run(engine, "pull", "--quiet", BASE, timeout=60).returncode == 0
            except subprocess.TimeoutExpired:
                pulled = False
            if not pulled:
                return f"{engine} cannot get the base image {BASE}"
        return compose
    return "no container engine: neither podman with podman-compose nor docker with compose"


@dataclass(frozen=True)
class Project:
    """One run of the compose file, with names and a port of its own."""

    compose: tuple[str, ...]
    name: str
    port: int
    env: dict[str, str]

    def __call__(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        file = ROOT / "docker-compose.yml"
        return _run(
            *self.compose, "-p", self.name, "-f", file, *arguments, env=self.env, timeout=timeout
        )

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script in the container that serves, as the user it serves as."""
        return self("exec", "-T", "api", "sh", "-c", script, timeout=60)

    def up(self) -> None:
        """Start, and wait until a search has gone through."""
        started = self("up", "-d")
        assert started.returncode == 0, started.stderr
        deadline = time.monotonic() + 60
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass  # nothing listens yet
            if time.monotonic() > deadline:
                logs = self("logs", timeout=60)
                pytest.fail(f"the service did not get ready:\n{logs.stdout}{logs.stderr}")
            time.sleep(0.2)


def _project(compose: tuple[str, ...], image: str, **env: str) -> Project:
    name = f"fashionbert-test-{uuid.uuid4().hex[:8]}"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ours = {
        "BUILDAH_FORMAT": "docker",  # else podman drops the HEALTHCHECK
        "FASHIONBERT_IMAGE": image,
        "FASHIONBERT_PORT": str(port),
        "FASHIONBERT_DEMO": "16",
    }
    return Project(compose, name, port, {**ours, **env})


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The image, built by compose; removed afterwards."""
    compose = _engine()
    if isinstance(compose, str):
        pytest.skip(compose)
    image = f"localhost/fashionbert-test-{uuid.uuid4().hex[:8]}:latest"
    try:
        built = _project(compose, image)("build")
        assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
        yield image
    finally:
        _run(compose[0].removesuffix("-compose"), "rmi", "--force", image)


@contextlib.contextmanager
def _up(project: Project) -> Iterator[Project]:
    """The project, up; afterwards nothing of it is left."""
    try:
        project.up()
        yield project
    finally:
        project("down", "--volumes", timeout=120)


@pytest.fixture(scope="module")
def project(image: str, demo_catalogue: Path, bundle: Bundle) -> Iterator[Project]:
    """The compose project over a catalogue and a model of one's own."""
    compose = _engine()
    assert not isinstance(compose, str)
    own = _project(
        compose,
        image,
        FASHIONBERT_BUNDLE_DIR=str(bundle.path),
        FASHIONBERT_CATALOGUE_DIR=str(demo_catalogue),
        FASHIONBERT_FEED="val.csv",
        FASHIONBERT_SNAPSHOTS_DIR="snapshots",
    )
    with _up(own):
        yield own


def test_search_over_http(project: Project, demo_catalogue: Path) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{project.port}", timeout=60) as client:
        index = client.get("/v1/index").json()
        assert (index["snapshot"], index["products"]) == ("00000001", 32)

        by_text = client.post("/v1/search/text", json={"query": "navy striped shirt", "k": 5})
        assert by_text.status_code == 200, by_text.text
        hits = by_text.json()["hits"]
        assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5]
        picture = client.get(f"/v1/items/{hits[0]['id']}/image")
        assert picture.headers["content-type"] == "image/jpeg"

        with tarfile.open(demo_catalogue / "images.tar") as tar:
            member = next(member for member in tar if member.name.endswith(".jpg"))
            file = tar.extractfile(member)
            assert file is not None
            upload = file.read()
        # More than a megabyte, so that it is spooled to a file: the root is read-only, /tmp is not.
        padded = upload + bytes(3 << 20)
        for data in (upload, padded):
            by_image = client.post(
                "/v1/search/image", files={"image": ("a.jpg", data)}, data={"k": "3"}
            )
            assert by_image.status_code == 200, by_image.text
            assert len(by_image.json()["hits"]) == 3


def test_contained(project: Project) -> None:
    assert project.sh("id -u; id -g").stdout.split() == ["10001", "10001"]

    for path in ("/x", "/opt/fashionbert/x", "/snapshots/x", "/bundle/x"):
        written = project.sh(f"touch {path}")
        assert written.returncode != 0, path
        assert "Read-only file system" in written.stdout + written.stderr, path
    assert project.sh("touch /tmp/x").returncode == 0

    status = dict(
        line.split(":", 1) for line in project.sh("cat /proc/self/status").stdout.splitlines()
    )
    assert status["NoNewPrivs"].strip() == "1"
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}


def test_holds_what_serving_needs_and_no_more(project: Project) -> None:
    modules = "pip", "setuptools", "torch", "transformers", "onnxruntime", "faiss"
    listed = project.sh(
        'python -c "import importlib.util as u; '
        f'print(*(name for name in {modules} if u.find_spec(name)))"'
    )
    assert listed.stdout.split() == ["onnxruntime", "faiss"], listed.stderr
    assert project.sh("ls /catalogue").returncode != 0
    assert project.sh("printenv ORT_DISABLE_TELEMETRY").stdout.strip() == "1"


def test_health_check(project: Project) -> None:
    assert project.sh("python /opt/ready.py").returncode == 0
    deaf = project.sh("FASHIONBERT_PORT=1 python /opt/ready.py")
    assert deaf.returncode == 1
    assert "not reachable" in deaf.stdout + deaf.stderr
    if project.compose == ("podman-compose",):  # no timers under podman: ask it to check
        asked = _run("podman", "healthcheck", "run", f"{project.name}_api_1", timeout=60)
        assert asked.returncode == 0, asked.stderr


def test_up_again_keeps_the_snapshot(project: Project) -> None:
    down = project("down")
    assert down.returncode == 0, down.stderr
    project.up()
    index = httpx.get(f"http://127.0.0.1:{project.port}/v1/index").json()
    assert index["snapshot"] == "00000001"


def test_as_it_stands_it_serves_the_demo_with_the_model_that_comes_along(image: str) -> None:
    compose = _engine()
    assert not isinstance(compose, str)
    with _up(_project(compose, image)) as project:
        address = f"http://127.0.0.1:{project.port}"
        index = httpx.get(f"{address}/v1/index").json()
        assert index["products"] == 16
        assert index["model"] == Bundle.open(pretrained()).model_id
        found = httpx.post(f"{address}/v1/search/text", json={"query": "navy shirt"}, timeout=60)
        assert found.status_code == 200, found.text
        assert found.json()["hits"][0]["id"].startswith("demo-024")


def test_hadolint() -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which(
        "hadolint"
    )
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install 'fashionbert[dev]'")
    for dockerfile in sorted((ROOT / "docker").glob("*Dockerfile")):
        ran = _run(hadolint, "--no-color", dockerfile)
        assert (ran.returncode, ran.stdout) == (0, "")
