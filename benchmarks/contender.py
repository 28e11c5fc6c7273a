"""Contenders: processes that wait, and compute only while it is their turn."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.settings import ROOT

SCRIPTS = Path(__file__).parent / "contenders"

T = TypeVar("T")


class Paused:
    """A process in a group of its own that stands still outside `turn`.

    Stopped by a signal, it spins on nothing and polls nothing while others are measured.
    """

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self.process = process

    def pause(self) -> None:
        """Stop it."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.killpg(self.process.pid, signal.SIGCONT)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let it run in a `with` block."""
        self.resume()
        try:
            yield
        finally:
            self.pause()

    def end(self) -> None:
        """End it and whatever it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Contender(Paused):
    """A script of `contenders/`, started, ready and paused; see `contenders/protocol.py`.

    Args:
        name: what it is called in the figures.
        script: file in `contenders/`.
        settings: given to it as JSON.
        python: whose Python; this one's by default.
        cores: the processor cores it may use; all by default.
        environment: variables on top of one's own.

    Raises:
        RuntimeError: it ended before it was ready; its standard error says why.
    """

    def __init__(
        self,
        name: str,
        script: str,
        settings: Mapping[str, Any],
        *,
        python: Path | None = None,
        cores: set[int] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        ours = {"PYTHONPATH": str(ROOT)} if python is None else {}
        command = [str(python or sys.executable), str(SCRIPTS / script), json.dumps(settings)]
        super().__init__(
            subprocess.Popen(
                bound(command, cores),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                process_group=0,
                env=own_environment({**ours, **(environment or {})}),
            )
        )
        try:
            self.facts: dict[str, Any] = self._read()["ready"]
        except BaseException:
            self.end()
            raise
        self.pause()

    def run(self, **request: Any) -> dict[str, Any]:
        """Do some work; see `contenders.protocol.serve`."""
        assert self.process.stdin is not None
        with self.turn():
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the contender {self.name} ended: see what it printed")
        message: dict[str, Any] = json.loads(line)
        return message


#: Nobody is to look for newer models or tell of their use while they are measured.
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "TOKENIZERS_PARALLELISM": "true",
}


#: What would set somebody's threads or our service.
_UNSET = ("OMP_", "MKL_", "OPENBLAS_", "KMP_", "ORT_", "FASHIONBERT_", "INFINITY_")


def own_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """One's own environment less what would set contenders apart, and some variables on top."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_UNSET)}
    return {**kept, **_OFFLINE, **(more or {})}


def bound(command: Sequence[str], cores: set[int] | None = None) -> list[str]:
    """A command that ends with the harness, however that ends, and keeps to some cores."""
    bound = ["setpriv", "--pdeathsig", "KILL"]
    if cores is not None:
        bound += ["taskset", "-c", ",".join(map(str, sorted(cores)))]
    return [*bound, *command]


@contextmanager
def started(*makers: Callable[[], Paused]) -> Iterator[list[Any]]:
    """Start contenders one after the other; all are ended with the `with` block."""
    with ExitStack() as stack:
        contenders = []
        for make in makers:
            contender = make()
            stack.callback(contender.end)
            contenders.append(contender)
        yield contenders


def interleave(rounds: int, turns: Mapping[str, Callable[[], T]], say: str) -> list[dict[str, T]]:
    """Let all take a turn in every round, in an order drawn anew.

    Args:
        rounds: how many.
        turns: what to do, by name.
        say: what is measured, for standard error.

    Returns:
        What each gave, round by round.
    """
    order = random.Random(0)
    outcomes = []
    for number in range(rounds):
        names = order.sample(list(turns), len(turns))
        found = {name: turns[name]() for name in names}
        outcomes.append({name: found[name] for name in turns})
        print(f"{say}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return outcomes


def best_batch(contender: Contender, batches: list[int], repeats: int = 3) -> int:
    """The batch size with which a contender is fastest, found before the rounds."""
    spent = {batch: min(contender.run(repeats=repeats, batch=batch)["ms"]) for batch in batches}
    return min(spent, key=lambda batch: spent[batch])
