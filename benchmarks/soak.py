"""Hold the service at a share of its capacity while everything around it happens, and judge it.

`python -m benchmarks.soak BUNDLE --minutes 30`: two replicas on one folder, a real Redis, a drawn
catalogue. Capacity is measured first, with as many clients as it takes; then requests arrive at a
constant rate, whatever becomes of those before them, with products put and deleted all the time,
snapshots compacted, built and gone back to, and Redis killed and stopped. Every answer is judged
(`benchmarks.soaking.judge`). Load, Redis and replicas share this machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.measure import percentiles
from benchmarks.servers import Server, free_port, ours
from benchmarks.settings import ROOT
from benchmarks.soaking.events import Events, Redis, memory
from benchmarks.soaking.judge import Judge, World
from benchmarks.soaking.traffic import Outcome, Traffic, closed_loop, open_loop
from index.snapshot_folder import current
from model.demo import write_demo_catalogue
from model.files import write_atomically

MOST_PRODUCTS = 900  # one answer lists them all, with what is written on top
SHOWN = 20  # complaints that the figures keep
SAMPLE_SECONDS = 5.0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--share", type=float, default=0.8, help="of the capacity")
    parser.add_argument("--capacity-seconds", type=float, default=30.0)
    parser.add_argument("--event-seconds", type=float, default=60.0, help="from one to the next")
    parser.add_argument("--products", type=int, default=600)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--threads", type=int, default=None, help="cores of each replica")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "soak")
    parser.add_argument("--out", type=Path, default=None, help="JSON; WORK/soak.json by default")
    given = parser.parse_args(arguments)
    if not 10 <= given.products <= MOST_PRODUCTS:
        parser.error(f"--products: 10 to {MOST_PRODUCTS}")
    if given.minutes * 60 < 2 * given.event_seconds:
        parser.error("--minutes: long enough for two events at least")
    return given


def write_feeds(work: Path, products: int, seed: int) -> dict[str, Path]:
    """Two feeds of a drawn catalogue: the second lacks some products and renames the rest."""
    write_demo_catalogue(work / "catalogue", products=products, held_out=0, seed=seed)
    first = work / "catalogue" / "train.csv"
    with first.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    second = work / "catalogue" / "second.csv"
    with second.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        kept = [row for number, row in enumerate(rows) if number % 7]
        writer.writerows({**row, "title": f"{row['title']} (second)"} for row in kept)
    return {"first": first, "second": second}


def titles(feed: Path) -> dict[str, str]:
    """A feed's titles by id."""
    with feed.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row["title"] for row in csv.DictReader(file)}


async def soak(given: argparse.Namespace) -> dict[str, Any]:
    """Set everything up, measure, hold, judge; returns the figures."""
    work = given.work / "run"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    feeds = write_feeds(work, given.products, given.seed)
    judge = Judge(World({name: titles(path) for name, path in feeds.items()}))
    redis = Redis(free_port())
    events = Events(given.bundle.resolve(), work / "snapshots", feeds, redis, judge)
    print("building the catalogue", file=sys.stderr, flush=True)
    await events.build("first")
    with ExitStack() as stack:
        redis.start()
        stack.callback(redis.kill)
        replicas = []
        for number in range(given.replicas):
            replica = _replica(given, work, number, redis)
            stack.callback(replica.end)
            replicas.append(replica)
        return await _measured(given, replicas, events, judge)


def _replica(given: argparse.Namespace, work: Path, number: int, redis: Redis) -> Server:
    environment = {
        "FASHIONBERT_REDIS_URL": redis.url,
        "FASHIONBERT_CANDIDATES": str(given.candidates),
    }
    if given.threads is not None:
        environment["FASHIONBERT_THREADS"] = str(given.threads)
    return ours(
        work, given.bundle, work / "snapshots", name=f"replica-{number}", environment=environment
    )


async def _measured(
    given: argparse.Namespace, replicas: list[Server], events: Events, judge: Judge
) -> dict[str, Any]:
    traffic = Traffic([one.address for one in replicas], judge, events.feed, given.seed)
    try:
        print("measuring the capacity", file=sys.stderr, flush=True)
        await closed_loop(traffic, 4, 3.0)  # the first batches of their lengths
        capacity = await closed_loop(traffic, 8 * len(replicas), given.capacity_seconds)
        traffic.outcome = Outcome()
        rate, seconds = given.share * capacity, 60 * given.minutes
        print(f"capacity {capacity:.1f}/s; holding {rate:.1f}/s", file=sys.stderr, flush=True)
        samples: list[dict[str, dict[str, float]]] = []
        sampling = asyncio.create_task(_sample(replicas, samples))
        happening = asyncio.create_task(events.run(given.event_seconds, seconds))
        requests = await open_loop(traffic, rate, seconds)
        await happening
        sampling.cancel()
        await traffic.sweep()
    finally:
        await traffic.close()
    judge.close()
    return {
        "minutes": given.minutes,
        "share": given.share,
        "capacity_per_second": round(capacity, 2),
        "offered_per_second": round(rate, 2),
        "requests": requests,
        **_outcome(traffic.outcome),
        "judged": dict(judge.judged),
        "wrong": len(judge.wrong),
        "lost": len(judge.lost),
        "complaints": [*judge.wrong[:SHOWN], *judge.lost[:SHOWN]],
        "events": dict(events.happened),
        "failed_events": events.failures,
        "snapshots": len(judge.world.snapshots),
        "snapshot": current(events.root),
        "memory": samples,
        "growth": growth([_own(sample) for sample in samples]),
        "settings": {
            "products": given.products,
            "candidates": given.candidates,
            "replicas": given.replicas,
            "event_seconds": given.event_seconds,
            "seed": given.seed,
        },
        "machine": machine.describe(),
        "versions": machine.versions(),
    }


def _own(sample: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {name: found["own"] for name, found in sample.items()}


async def _sample(replicas: list[Server], samples: list[dict[str, dict[str, float]]]) -> None:
    while True:
        samples.append({one.name: memory(one.process.pid) for one in replicas})
        await asyncio.sleep(SAMPLE_SECONDS)


def _outcome(outcome: Outcome) -> dict[str, Any]:
    found = {kind: percentiles(each) for kind, each in sorted(outcome.milliseconds.items())}
    replica = outcome.replica_milliseconds
    return {
        "milliseconds": found,
        "replica_milliseconds": percentiles(replica) if replica else None,
        "failed": dict(outcome.failed),
        "explained": dict(outcome.explained),
        "unexplained": dict(outcome.unexplained),
        "degraded": dict(outcome.degraded),
    }


def growth(samples: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """How much the memory of each replica grew: the medians of the second and of the last fifth.

    The first fifth does not count: caches fill, and arenas find their size.
    """
    fifth = max(1, len(samples) // 5)
    grown = {}
    for name in samples[0] if samples else ():
        first = statistics.median(each[name] for each in samples[fifth : 2 * fifth] or samples)
        last = statistics.median(each[name] for each in samples[-fifth:])
        percent = 100 * (last - first) / first
        grown[name] = {"first": round(first, 1), "last": round(last, 1), "percent": percent}
    return grown


def held(found: Mapping[str, Any]) -> bool:
    """Whether nothing was wrong, lost, or failed without a reason that counts."""
    bad = ("wrong", "lost", "failed", "unexplained", "failed_events")
    return not any(found[name] for name in bad)


def summary(found: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"{found['minutes']:g} minutes at {100 * found['share']:.0f} % of "
        f"{found['capacity_per_second']:.1f} requests/s "
        f"({found['requests']:,} requests): {'**held**' if held(found) else '**not held**'}",
        "",
        "| request | n | p50 ms | p95 ms | p99 ms |",
        "|---|---|---|---|---|",
    ]
    for kind, each in found["milliseconds"].items():
        lines.append(_row(kind, each))
    if found["replica_milliseconds"] is not None:
        lines.append(_row("a write at the other replica", found["replica_milliseconds"]))
    counted = {
        "wrong answers": found["wrong"],
        "lost writes": found["lost"],
        "unexplained 5xx or no answer": sum(found["unexplained"].values()),
        "4xx that nobody asked for": sum(found["failed"].values()),
        "503 with Retry-After when there was too much": sum(found["explained"].values()),
        "degraded answers": sum(found["degraded"].values()),
        "answers and items judged": sum(found["judged"].values()),
    }
    lines += ["", "| | |", "|---|---|"]
    lines += [f"| {name} | {number:,} |" for name, number in counted.items()]
    lines += [f"| {name} | {number} times |" for name, number in found["events"].items()]
    for name, each in found["growth"].items():
        lines.append(
            f"| {name}: own memory | {each['first']:.0f} to {each['last']:.0f} MiB "
            f"({each['percent']:+.1f} %) |"
        )
    return "\n".join(lines)


def _row(name: str, each: Mapping[str, float]) -> str:
    times = " | ".join(f"{each[one]:.1f}" for one in ("p50", "p95", "p99"))
    return f"| {name} | {each['n']} | {times} |"


def main(arguments: Sequence[str]) -> int:
    """Run it; 0 if it held."""
    given = parse(arguments)
    found = asyncio.run(soak(given))
    out = given.out or given.work / "soak.json"
    write_atomically(out, json.dumps(found, indent=1).encode() + b"\n")
    print(summary(found))
    for complaint in (*found["complaints"], *found["failed_events"]):
        print(f"- {complaint}", file=sys.stderr)
    print(f"the figures are in {out}", file=sys.stderr)
    return 0 if held(found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
