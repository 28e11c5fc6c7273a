"""What happens to the service meanwhile: new snapshots, ways back, and a Redis that dies."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.contender import bound, own_environment
from benchmarks.settings import ROOT
from benchmarks.soaking.judge import Judge, Snapshot
from index.manifest import read_manifest
from index.snapshot_folder import current, locate

STALL_SECONDS = 5.0
DOWN_SECONDS = 8.0
KEEP = 4


class Redis:
    """A real Redis on loopback that keeps nothing."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For the service's settings."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it.

        Raises:
            RuntimeError: it is not installed.
        """
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("redis-server is not installed: apt-get install redis-server")
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        limits = ["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]
        self.process = subprocess.Popen(
            bound([program, *options, *limits]), stdout=subprocess.DEVNULL, cwd="/"
        )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.process is not None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Events:
    """One event after the other, `every` so many seconds, until it is stopped.

    Args:
        bundle: of the model.
        root: the folder of snapshots.
        feeds: the file of each feed, by its name.
        redis: to be killed and stopped for a while.
        judge: is told of new snapshots.
    """

    def __init__(
        self, bundle: Path, root: Path, feeds: dict[str, Path], redis: Redis, judge: Judge
    ) -> None:
        self.bundle = bundle
        self.root = root
        self.feeds = feeds
        self.redis = redis
        self.judge = judge
        self.happened: Counter[str] = Counter()
        self.failures: list[str] = []

    def feed(self) -> str:
        """The feed that the current snapshot comes from."""
        return self.judge.world.snapshots[current(self.root)].feed

    async def run(self, every: float, seconds: float) -> None:
        """Do them in turn; none begins in the last tenth of the time."""
        cycle: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("compact", self._compact),
            ("kill Redis", self._kill_redis),
            ("roll back", self._roll_back),
            ("stall Redis", self._stall_redis),
            ("build the other feed", self._build_other),
            ("prune", self._prune),
        ]
        clock = asyncio.get_running_loop()
        start, number = clock.time(), 0
        while True:
            wait = start + (number + 1) * every - clock.time()
            if clock.time() + max(0.0, wait) > start + 0.9 * seconds:
                return
            await asyncio.sleep(max(0.0, wait))
            name, event = cycle[number % len(cycle)]
            print(f"  {clock.time() - start:5.0f} s: {name}", file=sys.stderr, flush=True)
            await event()
            self.happened[name] += 1
            number += 1

    async def build(self, feed: str) -> None:
        """Build a snapshot of a feed and serve it."""
        options = ["--bundle", str(self.bundle), "--threads", "1"]
        await self._index(feed, "build", str(self.feeds[feed]), *options)

    async def _build_other(self) -> None:
        await self.build(next(name for name in self.feeds if name != self.feed()))

    async def _compact(self) -> None:
        await self._index(self.feed(), "compact")

    async def _roll_back(self) -> None:
        await self._index(self.feed(), "rollback")

    async def _prune(self) -> None:
        await self._index(self.feed(), "prune", "--keep", str(KEEP))

    async def _index(self, feed: str, *arguments: str) -> None:
        """Run `fashionbert index`; a snapshot that is new then comes from `feed`."""
        command = [sys.executable, "-m", "service.cli", "index", *arguments]
        process = await asyncio.create_subprocess_exec(
            *bound(["nice", "-n", "19", *command, "--snapshots", str(self.root)]),
            stdout=subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=own_environment({"OMP_NUM_THREADS": "1"}),
        )
        _, printed = await process.communicate()
        if process.returncode:
            self.failures.append(f"{arguments[0]}: {printed.decode()[-500:]}")
        name = current(self.root)
        if name not in self.judge.world.snapshots:
            folded = read_manifest(locate(self.root, name)).folded
            self.judge.known(name, Snapshot(feed, folded))

    async def _kill_redis(self) -> None:
        self.redis.kill()
        await asyncio.sleep(DOWN_SECONDS)
        self.redis.start()

    async def _stall_redis(self) -> None:
        self.redis.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(STALL_SECONDS)
        finally:
            self.redis.send(signal.SIGCONT)


def memory(pid: int) -> dict[str, float]:
    """MiB that a process has in memory: all of it, and what maps no file."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "RssAnon"):
            found[name] = int(value.split()[0]) / 1024
    return {"resident": found["VmRSS"], "own": found["RssAnon"]}
