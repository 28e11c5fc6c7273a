from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from model.bundle import Bundle
from service.cli.app import COMMANDS, app
from service.live_search import LiveSearch, open_live_search
from service.settings import Settings

Shell = Callable[..., Any]
MAIN = [sys.executable, "-c", "from service.cli.__main__ import main; main()"]


def test_help_is_a_table_of_contents(shell: Shell) -> None:
    ran = shell("--help")
    assert ran.code == 0
    places = [ran.out.index(f"│ {name} ") for _, name, _ in COMMANDS]
    assert places == sorted(places)
    for panel in {panel for panel, _, _ in COMMANDS}:
        assert f"─ {panel} ─" in ran.out
    assert shell().out.strip() == ran.out.strip()


def commands() -> Iterator[list[str]]:
    def walk(command: Any, path: list[str]) -> Iterator[list[str]]:
        below = getattr(command, "commands", None)
        if below is None:
            yield path
        else:
            for name, one in below.items():
                yield from walk(one, [*path, name])

    yield from walk(typer.main.get_command(app), [])


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_help_has_an_example(command: list[str], shell: Shell) -> None:
    ran = shell(*command, "--help")
    assert ran.code == 0
    assert re.search(rf"Examples?:\s+fashionbert {' '.join(command)} ", ran.out)


def test_the_version(shell: Shell) -> None:
    ran = shell("--version")
    assert (ran.code, ran.out.strip()) == (0, f"fashionbert {metadata.version('fashionbert')}")


def test_a_wrong_option_is_told(shell: Shell) -> None:
    ran = shell("search", "--colour", "red")
    assert ran.code == 2
    assert "--colour" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", [["key", "new"], ["--help"]], ids=" ".join)
def test_a_full_disk_is_told(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [*MAIN, *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("error: No space left on device")


@contextmanager
def served(bundle: Bundle, snapshots: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ,
        "FASHIONBERT_BUNDLE": str(bundle.path),
        "FASHIONBERT_SNAPSHOTS": str(snapshots),
        "FASHIONBERT_THREADS": "1",
    }
    process = subprocess.Popen(
        [*MAIN, "serve", *arguments], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_serve(bundle: Bundle, snapshot_root: Path) -> None:
    with served(bundle, snapshot_root, "--port", "0") as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if not line.startswith("{"))  # no log
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line + process.stderr.read()
        for line in process.stderr:
            if '"listening"' in line:
                break
        with httpx.Client(base_url=found[0], timeout=60) as client:
            while client.get("/readyz").status_code == 503:
                time.sleep(0.02)
            hits = client.post("/v1/search/text", json={"query": "red dress"}).json()["hits"]
            assert len(hits) == 10
        # The port is taken now, and a second service says so.
        with served(bundle, snapshot_root, "--port", found[1]) as second:
            _, told = second.communicate(timeout=60)
        assert second.returncode == 2
        assert told.startswith(
            f"error: cannot listen on 127.0.0.1 port {found[1]}: Address already"
        )
        assert told.count("\n") == 1
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGTERM)


def test_of_two_services_that_start_at_once_one_is_told(
    bundle: Bundle, snapshot_root: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both can bind the port, as long as neither listens."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]

        def opened(settings: Settings) -> LiveSearch:
            other.listen()
            return open_live_search(settings)

        monkeypatch.setattr("service.live_search.open_live_search", opened)
        options = ["--bundle", bundle.path, "--snapshots", snapshot_root, "--threads", "1"]
        ran = shell("serve", "--port", port, *options)
    assert (ran.code, ran.out) == (2, "")
    assert f"error: cannot listen on 127.0.0.1 port {port}: Address already" in ran.err
