"""What HTTP, batching, recall and Python add to the passes that a search cannot do without."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks import load, models, servers, synthetic, workload
from benchmarks.contender import Contender, interleave
from benchmarks.measure import medians, spread
from benchmarks.parts.rerank_server import products, requests
from benchmarks.results import Results
from benchmarks.settings import CANDIDATES, Settings
from model.bundle import Bundle

LEVELS = ("sessions", "engine", "searcher")
MODELS = (models.SHIPPED, "khalf-int8")


def run(settings: Settings) -> None:
    """Measure each model."""
    results = Results(settings.results, "overhead", settings.measured)
    models.ensure(settings)
    for name in MODELS:
        results.step(name, partial(_measure, settings, name))
    results.finish()


def _measure(settings: Settings, name: str) -> dict[str, Any]:
    bundle = models.bundle(settings, name)
    snapshots = synthetic.snapshot(settings.work, Bundle.open(bundle), products(settings))
    given = {
        "bundle": str(bundle),
        "snapshots": str(snapshots),
        "queries": workload.pairs(settings)["queries"],
    }
    seeds = load.seeds()
    server = servers.ours(settings.work, bundle, snapshots)
    try:
        server.pause()
        contender = Contender(name, "ours_search.py", given)
        try:

            def http(kind: str) -> dict[str, Any]:
                with server.turn():
                    return load.run(
                        server.address,
                        kind,
                        1,
                        settings.seconds if kind == "search" else min(1.0, settings.seconds),
                        seed=next(seeds),
                        **requests(settings)[kind],
                    )

            turns: dict[str, Any] = {
                level: partial(
                    contender.run, level=level, candidates=CANDIDATES, seconds=settings.seconds
                )
                for level in LEVELS
            }
            turns |= {"http": partial(http, "search"), "http-empty": partial(http, "health")}
            found = interleave(settings.rounds, turns, f"overhead, {name}")
        finally:
            contender.end()
    finally:
        server.end()
    spent = medians([{level: each[level]["ms"] for level in LEVELS} for each in found])
    spent |= {name: [each[name]["ms"]["p50"] for each in found] for name in ("http", "http-empty")}
    stages = [each["searcher"]["timings"] for each in found]
    return {
        "products": products(settings),
        "milliseconds": {level: spread(each) for level, each in spent.items()},
        "over_sessions_percent": {
            level: spread(
                [100 * (a / b - 1) for a, b in zip(spent[level], spent["sessions"], strict=True)]
            )
            for level in ("engine", "searcher", "http")
        },
        "stages": {stage: spread([each[stage] for each in stages]) for stage in stages[0]},
    }
