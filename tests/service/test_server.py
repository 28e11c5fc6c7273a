from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from index.compact import compact, prune_snapshots
from index.delta_records import Delete
from index.live_index import LiveIndex
from index.snapshot import Snapshot
from model.bundle import Bundle
from model.engine import Engine


def ask(address: str) -> httpx.Response:
    """A GET on a connection of its own; without certificates, which take long to read."""
    return httpx.get(address, timeout=60, verify=False)


@contextmanager
def served(
    bundle: Bundle, snapshots: Path, *arguments: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`fashionbert serve` on a free port, ready; its process and its address."""
    environment = {
        **os.environ,
        "FASHIONBERT_BUNDLE": str(bundle.path),
        "FASHIONBERT_SNAPSHOTS": str(snapshots),
        "FASHIONBERT_THREADS": "1",
        **variables,
    }
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if not line.startswith("{"))  # no log
        found = re.search(r"http://[\d.]+:(\d+)/", line)
        assert found, line + process.stderr.read()
        address = f"http://127.0.0.1:{found[1]}"
        for line in process.stderr:
            if '"listening"' in line:
                break
        while ask(f"{address}/readyz").status_code == 503:
            time.sleep(0.02)
        yield process, address
    finally:
        process.kill()
        process.communicate()


def listening(address: str) -> bool:
    try:
        ask(f"{address}/healthz")
    except httpx.TransportError:
        return False
    return True


def test_it_ends_in_two_steps(bundle: Bundle, snapshot_root: Path) -> None:
    """Not ready first, though it answers; then the port is gone, and what had begun finishes."""
    with served(bundle, snapshot_root, FASHIONBERT_DRAIN_SECONDS="600") as (process, address):
        parts = urlsplit(address)
        body = json.dumps({"query": "red dress", "k": 3}).encode()
        begun = socket.create_connection((parts.hostname, parts.port), timeout=60)
        begun.sendall(
            b"POST /v1/search/text HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body[:10])
        )
        # The server has read that when it has answered what came after.
        assert ask(f"{address}/healthz").status_code == 200

        process.send_signal(signal.SIGTERM)
        while (answer := ask(f"{address}/readyz")).status_code == 200:
            time.sleep(0.02)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert "shutting down" in answer.json()["detail"]
        assert answer.headers["connection"] == "close"
        found = httpx.post(f"{address}/v1/search/text", json={"query": "coat"}, timeout=60)
        assert found.status_code == 200

        process.send_signal(signal.SIGTERM)  # which does not wait any longer
        while listening(address):
            time.sleep(0.02)
        begun.sendall(body[10:])
        with begun, begun.makefile("rb") as answered:
            assert answered.read().startswith(b"HTTP/1.1 200 ")
        process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGTERM)


def test_a_head_has_to_arrive(bundle: Bundle, snapshot_root: Path) -> None:
    """On a new connection, and after an answer; who sends nothing after one is kept."""
    whole = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"
    with served(bundle, snapshot_root, FASHIONBERT_HEAD_SECONDS="0.4") as (_, address):
        parts = urlsplit(address)

        def connected(*sent: bytes) -> socket.socket:
            begun = socket.create_connection((parts.hostname, parts.port), timeout=60)
            for part in sent:
                begun.sendall(part)
            return begun

        def answer(begun: socket.socket) -> bytes:
            read = b""
            while not read.endswith(b'{"status":"ok"}'):
                part = begun.recv(10_000)
                assert part, read
                read += part
            return read

        silent, partial, after = connected(), connected(whole[:20]), connected(whole)
        kept = connected(whole)
        for each in (after, kept):
            assert answer(each).startswith(b"HTTP/1.1 200")
        after.sendall(whole[:20])
        slow = connected(whole[:5])
        time.sleep(0.05)
        slow.sendall(whole[5:])  # whole in time
        assert answer(slow).startswith(b"HTTP/1.1 200")
        for each in (silent, partial, after):
            assert each.recv(10_000) == b""
        time.sleep(0.5)
        kept.sendall(whole)
        assert answer(kept).startswith(b"HTTP/1.1 200")
        for each in (silent, partial, after, kept, slow):
            each.close()


def test_a_network_needs_keys_or_a_word(bundle: Bundle, snapshot_root: Path) -> None:
    with (
        pytest.raises(AssertionError, match="lets others in, and there are no keys"),
        served(bundle, snapshot_root, "--host", "0.0.0.0"),
    ):
        pass
    options = {"FASHIONBERT_ALLOW_ANONYMOUS": "true", "FASHIONBERT_KEYS": ""}
    with served(bundle, snapshot_root, "--host", "0.0.0.0", **options) as (_, address):
        assert ask(f"{address}/v1/index").status_code == 200
        answer = httpx.delete(f"{address}/v1/items/a", timeout=60)
        assert answer.json()["code"] == "missing_key"


@pytest.mark.parametrize("asked", [True, False])
def test_the_snapshot_it_began_with_may_go(
    bundle: Bundle,
    engine: Engine,
    snapshot: Snapshot,
    snapshot_root: Path,
    tmp_path: Path,
    asked: bool,
) -> None:
    root = Path(shutil.copytree(snapshot_root, tmp_path / "snapshots"))
    with served(bundle, root) as (_, address):
        if asked:
            answer = httpx.post(f"{address}/v1/search/text", json={"query": "hat"}, timeout=60)
            assert answer.status_code == 200
        LiveIndex.open(root, engine=engine).exchange([Delete(snapshot.ids[0])])
        compact(root)
        while ask(f"{address}/v1/index").json()["snapshot"] != "00000002":
            time.sleep(0.02)
        for _ in range(200):  # a moment, which the switch to the new one may still take
            removed, _ = prune_snapshots(root, keep=1)
            if removed:
                break
            time.sleep(0.05)
        assert removed == ["00000001"]
