"""Several serving processes over one snapshot against one: searches a second, and memory.

    python -m benchmarks.processes BUNDLE SNAPSHOTS
    python -m benchmarks.processes BUNDLE SNAPSHOTS --clients 1 4 16 --rounds 9

Each process has its share of the cores and its share of the clients, who all send their next
search when the last is answered. The ways are measured in turn in each round, the others standing
still. Memory is what the kernel says of the processes: `Pss` divides what they share, such as the
snapshot's files, among them, so that it may be summed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import load, servers, workload
from benchmarks.contender import interleave
from benchmarks.measure import ratio, spread

#: Of one token each.
_WORDS = ["red", "blue", "black", "white", "dress", "shirt", "coat", "hat", "bag", "belt", "soft"]


class Way:
    """So many processes with a share of the cores each."""

    def __init__(self, count: int, cores: int, bundle: Path, snapshots: Path, work: Path) -> None:
        self.count = count
        variables = {"FASHIONBERT_THREADS": str(max(1, cores // count))}
        self.servers: list[servers.Server] = []
        try:
            for number in range(count):
                name = f"{count}-processes-{number}"
                server = servers.ours(work, bundle, snapshots, name=name, environment=variables)
                self.servers.append(server)
                server.pause()
        except BaseException:
            self.end()
            raise

    def loaded(self, clients: int, seconds: float, seeds: Iterator[int]) -> dict[str, Any]:
        """The load of some clients, shared out among the processes."""
        seed = next(seeds)
        shares = [len(range(place, clients, self.count)) for place in range(self.count)]
        asked = [
            (server, share) for server, share in zip(self.servers, shares, strict=True) if share
        ]

        def one(place: int) -> dict[str, Any]:
            server, share = asked[place]
            return load.run(
                server.address,
                "search",
                share,
                seconds,
                words=_WORDS,
                query_words=workload.QUERY_WORDS,
                seed=1000 * seed + place,
            )

        with ExitStack() as turns, ThreadPoolExecutor(len(asked)) as threads:
            for server in self.servers:
                turns.enter_context(server.turn())
            found = list(threads.map(one, range(len(asked))))
        return {
            "per_second": sum(one["per_second"] for one in found),
            "p50": sum(one["ms"]["p50"] for one in found) / len(found),
            "p99": max(one["ms"]["p99"] for one in found),
        }

    def megabytes(self) -> dict[str, float]:
        """`Pss` and `Pss_Anon` of all processes together."""
        sums = {"Pss": 0.0, "Pss_Anon": 0.0}
        for server in self.servers:
            rollup = Path(f"/proc/{server.process.pid}/smaps_rollup").read_text(encoding="ascii")
            for line in rollup.splitlines():
                name, _, rest = line.partition(":")
                if name in sums:
                    sums[name] += int(rest.split()[0]) / 1024
        return sums

    def end(self) -> None:
        """End the processes."""
        for server in self.servers:
            server.end()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("snapshots", type=Path)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one way in one round")
    asked = parser.parse_args()
    seeds = load.seeds()
    counts = sorted({1, 2, asked.cores})
    with tempfile.TemporaryDirectory() as work, ExitStack() as running:
        ways = {}
        for count in counts:
            way = Way(count, asked.cores, asked.bundle, asked.snapshots, Path(work))
            running.callback(way.end)
            ways[str(count)] = way
        for clients in asked.clients:
            turns: dict[str, Any] = {
                name: partial(way.loaded, clients, asked.seconds, seeds)
                for name, way in ways.items()
            }
            found = interleave(asked.rounds, turns, f"{clients} clients")
            print(f"\n{clients} clients: searches/s, ratio to one process (range), p50, p99 ms")
            for name in ways:
                rates = [each[name]["per_second"] for each in found]
                against = ratio(rates, [each["1"]["per_second"] for each in found])
                p50, p99 = (spread([each[name][at] for each in found]) for at in ("p50", "p99"))
                print(
                    f"{name} processes {spread(rates)['median']:7.1f}  {against['median']:.2f} "
                    f"({against['low']:.2f}-{against['high']:.2f})  {p50['median']:6.1f} "
                    f"{p99['median']:6.1f}"
                )
        print("\nMB of all processes: shared files by their share, and their own")
        for name, way in ways.items():
            held = way.megabytes()
            print(f"{name} processes {held['Pss']:7.0f} {held['Pss_Anon']:7.0f}")


if __name__ == "__main__":
    main()
