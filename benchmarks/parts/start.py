"""From the command to the first answer, and what the service holds in memory."""

from __future__ import annotations

import math
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks import load, models, servers, synthetic
from benchmarks.contender import Paused, bound, interleave, own_environment
from benchmarks.measure import spread
from benchmarks.parts.rerank_server import requests
from benchmarks.results import Results
from benchmarks.settings import ROOT, Settings
from model.bundle import Bundle

_MODEL = models.SHIPPED
_PAUSE = 0.005  # seconds between two looks
_DEADLINE = 300


def run(settings: Settings) -> None:
    """Measure the start, then the memory."""
    results = Results(settings.results, "start", settings.measured)
    models.ensure(settings)
    few, many = (200, 400) if settings.quick else (10_000, 100_000)
    results.step(f"start/{few}", partial(_starts, settings, few))
    results.step(f"memory/{many}", partial(_memory, settings, many))
    results.finish()


def _snapshots(settings: Settings, count: int) -> tuple[Path, Path]:
    bundle = models.bundle(settings, _MODEL)
    root = synthetic.snapshot(settings.work, Bundle.open(bundle), count)
    return bundle.resolve(), root.resolve()


def _starts(settings: Settings, count: int) -> dict[str, Any]:
    bundle, root = _snapshots(settings, count)
    turns = {
        "verified": partial(_start, settings, bundle, root, True),
        "unverified": partial(_start, settings, bundle, root, False),
    }
    for turn in turns.values():
        turn()  # the files come into memory, the modules' bytecode onto the disk
    found = interleave(settings.rounds, turns, "start")
    return {
        name: {at: spread([each[name][at] for each in found]) for at in found[0][name]}
        for name in turns
    }


def _start(settings: Settings, bundle: Path, root: Path, verify: bool) -> dict[str, float]:
    """Seconds from the start of the process until each address answers 200."""
    port = servers.free_port()
    command = servers.our_command(bundle, root, port)
    environment = own_environment({"FASHIONBERT_VERIFY_SNAPSHOT": str(verify)})
    log = settings.work / "logs" / "start.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    address = f"http://127.0.0.1:{port}"
    seconds = {}
    with log.open("wb") as file, httpx.Client(timeout=60, trust_env=False) as http:
        began = time.perf_counter()
        server = Paused(
            subprocess.Popen(
                bound(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                process_group=0,
                cwd=ROOT,
                env=environment,
            )
        )
        try:
            ask = {
                "alive": partial(http.get, f"{address}/healthz"),
                "ready": partial(http.get, f"{address}/readyz"),
                "answer": partial(
                    http.post, f"{address}/v1/search/text", json={"query": "red dress", "k": 10}
                ),
            }
            for name, request in ask.items():
                _wait(request, log)
                seconds[name] = time.perf_counter() - began
        finally:
            server.end()
    return seconds


def _wait(request: Any, log: Path) -> None:
    deadline = time.monotonic() + _DEADLINE
    while time.monotonic() < deadline:
        try:
            if request().status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(_PAUSE)
    raise RuntimeError(f"the service did not answer in {_DEADLINE} s: see {log}")


def _memory(settings: Settings, count: int) -> dict[str, Any]:
    bundle, root = _snapshots(settings, count)
    server = servers.ours(settings.work, bundle, root)
    try:
        found = {"ready": resident(server.process.pid, root)}
        given = requests(settings)["search"]
        loads = {}
        for clients in (1, 16):
            loads[str(clients)] = load.run(
                server.address, "search", clients, settings.load_seconds, seed=clients, **given
            )["requests"]
            found[f"after {clients} client{'s' * (clients > 1)}"] = resident(
                server.process.pid, root
            )
    finally:
        server.end()
    return {"megabytes": found, "requests": loads}


def resident(pid: int, root: Path) -> dict[str, float]:
    """Megabytes of a process that are in memory: of the files under `root`, of others, of none."""
    sizes = {"snapshot": 0, "other_files": 0, "anonymous": 0}
    kind = "anonymous"
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):  # a mapping: addresses, rights, offset, device, inode, path
            path = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) > 5 else ""
            if path.startswith(f"{root}/"):
                kind = "snapshot"
            else:
                kind = "other_files" if path.startswith("/") else "anonymous"
        elif first == "Rss:":
            sizes[kind] += int(line.split()[1])
        elif first == "Anonymous:" and kind == "other_files":
            # What a library has written to is the process's own.
            own = int(line.split()[1])
            sizes["other_files"] -= own
            sizes["anonymous"] += own
    megabytes = {name: round(size / 1000 * 1.024, 1) for name, size in sizes.items()}
    beyond = math.fsum(megabytes[name] for name in ("other_files", "anonymous"))
    return {**megabytes, "beyond_snapshot": round(beyond, 1)}
