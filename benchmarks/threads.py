"""How to share the cores: workers, cores a pass, tokens a pass; requests of 64 candidates.

    python -m benchmarks.threads BUNDLE
    python -m benchmarks.threads BUNDLE --clients 1 4 16 --tokens 256 512 1024 --rounds 9

Each line is one way to share; all are measured in turn in each round, so that a machine that
drifts drifts for all, and the ratio is that of the same rounds to the first way, which is the
default. A client is a thread that asks for its next 64 pairs as soon as it has the last ones: one
text against 64 pictures. `long` clients ask for `--long` pairs beside them and are not counted:
they show what a short request waits for.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import ratio, spread
from model.bundle import Bundle
from model.engine import Engine
from model.states import QuantisedStates


@dataclass(frozen=True)
class Way:
    """One way to share the cores."""

    threads: int
    workers: int
    tokens: int

    def __str__(self) -> str:
        each = max(1, self.threads // self.workers)
        return f"{self.workers} workers × {each} cores, {self.tokens:5} tokens"


def states(rows: int, length: int, width: int, seed: int) -> QuantisedStates:
    """States without sense: what is computed does not depend on them."""
    generator = np.random.default_rng(seed)
    values = generator.integers(-127, 128, (rows, length, width), dtype=np.int8)
    return QuantisedStates(values, np.full((rows, length), 0.02, dtype=np.float32))


def measured(
    engine: Engine, clients: int, long: int, seconds: float, length: int, pairs: int
) -> tuple[float, float]:
    """Pairs a second of the clients together, and the median milliseconds of a request."""
    text = states(1, length, engine.hidden_size, 0)
    pictures = states(max(pairs, long), engine.patches, engine.hidden_size, 1)
    spent: list[float] = []
    end = time.perf_counter() + seconds

    def ask(count: int, times: list[float]) -> None:
        while time.perf_counter() < end:
            start = time.perf_counter()
            engine.match(text, pictures[:count])
            times.append(time.perf_counter() - start)

    threads = [threading.Thread(target=ask, args=(pairs, spent)) for _ in range(clients)]
    if long:
        threads.append(threading.Thread(target=ask, args=(long, [])))
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads[:clients]:
        thread.join()
    whole = time.perf_counter() - began
    for thread in threads[clients:]:
        thread.join()
    return pairs * len(spent) / whole, 1000 * statistics.median(spent)


def ways(cores: int, tokens: list[int], default: int) -> list[Way]:
    """The default first: one core a pass; then more cores a pass, then other sizes of a pass."""
    shares = [cores, *(cores // each for each in (2, 4, 8) if cores % each == 0), 1]
    found = [Way(cores, workers, default) for workers in shares]
    found += [Way(cores, cores, size) for size in tokens]
    return list(dict.fromkeys(found))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, nargs="*", default=[128, 256, 1024, 2048])
    parser.add_argument("--length", type=int, default=24, help="tokens of the text")
    parser.add_argument("--pairs", type=int, default=64, help="of one request")
    parser.add_argument("--long", type=int, default=0, help="pairs of one request beside them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one way in one round")
    asked = parser.parse_args()
    bundle = Bundle.open(asked.bundle)
    engines: dict[Way, Engine] = {}
    default = Engine(bundle, threads=asked.cores)
    for way in ways(asked.cores, asked.tokens, default.match_tokens):
        engines[way] = Engine(bundle, threads=way.threads, workers=way.workers)
        engines[way].match_tokens = way.tokens
    print(f"{bundle.manifest.precision}, {asked.length} + {default.patches} tokens a pair")
    for clients in asked.clients:
        rates: dict[Way, list[float]] = {way: [] for way in engines}
        latencies: dict[Way, list[float]] = {way: [] for way in engines}
        for _ in range(asked.rounds):
            for way, engine in engines.items():
                rate, median = measured(
                    engine, clients, asked.long, asked.seconds, asked.length, asked.pairs
                )
                rates[way].append(rate)
                latencies[way].append(median)
        first = rates[next(iter(engines))]
        print(f"\n{clients} clients: pairs/s, ratio to the first (range), ms a request")
        for way in engines:
            against = ratio(rates[way], first)
            print(
                f"  {way}  {spread(rates[way])['median']:8.0f}  {against['median']:5.2f} "
                f"({against['low']:.2f}–{against['high']:.2f})  "
                f"{statistics.median(latencies[way]):8.1f}"
            )


if __name__ == "__main__":
    main()
