"""Servers on loopback: ours and the peers', ready before they are measured."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks import models, peers
from benchmarks.contender import Paused, bound, own_environment
from benchmarks.settings import ROOT, Settings

_START_SECONDS = 600


class Server(Paused):
    """A server process that has answered at `ready`; it runs until it is paused.

    Args:
        name: what it is called in the figures.
        command: with its port in it.
        address: where it listens, `http://host:port`.
        ready: path that answers 200 once it serves.
        log: file for what it prints.
        cores: the processor cores it may use; all by default.
        environment: variables on top of one's own, less our service's settings.

    Raises:
        RuntimeError: it ended, or did not get ready.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        address: str,
        ready: str,
        log: Path,
        *,
        cores: set[int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.address = address
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            super().__init__(
                subprocess.Popen(
                    bound(command, cores),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    process_group=0,
                    cwd=ROOT,
                    env=own_environment(environment),
                )
            )
        try:
            self._wait(f"{address}{ready}", log)
        except BaseException:
            self.end()
            raise

    def _wait(self, url: str, log: Path) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended while it started: see {log}")
            try:
                if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} was not ready after {_START_SECONDS} s: see {log}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def our_command(bundle: Path, snapshots: Path, port: int) -> list[str]:
    """`fashionbert serve` with its defaults."""
    options = {"--bundle": bundle, "--snapshots": snapshots, "--port": port}
    given = [str(part) for option in options.items() for part in option]
    return [sys.executable, "-m", "service.cli", "serve", *given]


def ours(
    work: Path, bundle: Path, snapshots: Path, *, name: str = "ours", **options: Any
) -> Server:
    """Our service."""
    port = free_port()
    return Server(
        name,
        our_command(bundle.resolve(), snapshots.resolve(), port),
        f"http://127.0.0.1:{port}",
        "/readyz",
        work / "logs" / f"{name}.log",
        **options,
    )


def infinity(settings: Settings, peer: str, batch: int) -> Server:
    """infinity-emb over a copy of the cross-encoder: it writes beside the weights.

    Args:
        settings: say where the environments and the model are.
        peer: `infinity-torch` or `infinity-onnx`.
        batch: its `--batch-size`.
    """
    python = peers.ready(settings.peers, peer)
    folder = settings.work / "models" / f"{peer}-copy"
    shutil.rmtree(folder, ignore_errors=True)
    # Of the ONNX files only the one: it would have to choose.
    ignore = shutil.ignore_patterns("int8", "model.onnx" if peer == "infinity-torch" else "")
    shutil.copytree(models.cross_encoder(settings), folder, ignore=ignore)
    if peer == "infinity-onnx":
        (folder / "model.onnx").unlink()
    port = free_port()
    options = {
        "--model-id": folder.resolve(),
        "--engine": "optimum" if peer == "infinity-onnx" else "torch",
        "--device": "cpu",
        "--batch-size": batch,
        "--host": "127.0.0.1",
        "--port": port,
        "--served-model-name": "cross-encoder",
    }
    given = [str(part) for option in options.items() for part in option]
    flags = ["--no-bettertransformer", "--no-trust-remote-code"]
    return Server(
        peer,
        [str((python.parent / "infinity_emb").resolve()), "v2", *given, *flags],
        f"http://127.0.0.1:{port}",
        "/health",
        settings.work / "logs" / f"{peer}.log",
    )
