"""What a search costs as there are more candidates, products, clients and cores."""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from typing import Any

from benchmarks import load, models, servers, synthetic, workload
from benchmarks.contender import Contender, Paused, interleave, started
from benchmarks.measure import spread
from benchmarks.parts.rerank_server import products, requests
from benchmarks.results import Results
from benchmarks.settings import CANDIDATES, CATALOGUES, Settings
from model.bundle import Bundle

_CANDIDATES = (16, 32, 64, 128, 256)
_CLIENTS = (1, 2, 4, 8, 16, 32, 64)
_ROUNDS = 3
_MODEL = models.SHIPPED
#: A search by text reads the pictures' states only: short texts leave room for more products.
_TEXT_TOKENS = 8
_DISK_SHARE = 0.85


def run(settings: Settings) -> None:
    """Measure each direction of growth."""
    results = Results(settings.results, "growth", settings.measured)
    models.ensure(settings)
    results.step("candidates", partial(_candidates, settings))
    results.step("clients", partial(_clients, settings))
    for count in _catalogues(settings):
        results.step(f"catalogue/{count}", partial(_catalogue, settings, count))
    results.step("cores", partial(_cores, settings))
    results.finish()


def _given(settings: Settings, count: int, text_tokens: int = 24) -> dict[str, Any]:
    bundle = models.bundle(settings, _MODEL)
    root = synthetic.snapshot(settings.work, Bundle.open(bundle), count, text_tokens)
    queries = workload.pairs(settings)["queries"]
    return {"bundle": str(bundle), "snapshots": str(root), "queries": queries}


def _of(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds of one contender's rounds: the rounds' medians, and every stage's."""
    stages = [each["timings"] for each in found]
    return {
        "milliseconds": spread([sorted(each["ms"])[len(each["ms"]) // 2] for each in found]),
        "stages": {stage: spread([each[stage] for each in stages]) for stage in stages[0]},
    }


def _candidates(settings: Settings) -> dict[str, Any]:
    counts = [count for count in _CANDIDATES if count <= products(settings)]
    with started(
        partial(Contender, "search", "ours_search.py", _given(settings, products(settings)))
    ) as (contender,):
        turns = {
            str(count): partial(contender.run, candidates=count, seconds=settings.seconds)
            for count in counts
        }
        found = interleave(settings.rounds, turns, "growth, candidates")
    return {name: _of([each[name] for each in found]) for name in turns}


def _catalogues(settings: Settings) -> list[int]:
    """The sizes that there is disk for."""
    sizes = (100, 200) if settings.quick else CATALOGUES
    bundle = Bundle.open(models.bundle(settings, _MODEL))
    room = _DISK_SHARE * shutil.disk_usage(settings.work).free
    fitting = []
    for size in sizes:
        needed = synthetic.snapshot_bytes(bundle, size, _TEXT_TOKENS)
        if size <= settings.most_products and needed <= room:
            fitting.append(size)
        elif size <= settings.most_products:
            print(
                f"growth: {size:,} products need {needed / 1e9:.0f} GB, left out", file=sys.stderr
            )
    return fitting


def _catalogue(settings: Settings, count: int) -> dict[str, Any]:
    """One size at a time: two large ones would not fit on the disk together."""
    given = _given(settings, count, _TEXT_TOKENS)
    try:
        with started(partial(Contender, "search", "ours_search.py", given)) as (contender,):
            turns = {
                "search": partial(contender.run, candidates=CANDIDATES, seconds=settings.seconds)
            }
            found = interleave(settings.rounds, turns, f"growth, {count:,} products")
    finally:
        if count > 100_000:
            shutil.rmtree(given["snapshots"])
    return _of([each["search"] for each in found])


def _load(settings: Settings, server: servers.Server, clients: int, seed: int) -> dict[str, Any]:
    with server.turn():
        return load.run(
            server.address,
            "search",
            clients,
            settings.load_seconds,
            seed=seed,
            **requests(settings)["search"],
        )


def _clients(settings: Settings) -> dict[str, Any]:
    given = _given(settings, products(settings))
    bundle, snapshots = models.bundle(settings, _MODEL), given["snapshots"]
    seeds = load.seeds()
    start = partial(servers.ours, settings.work, bundle, _path(snapshots))
    with started(start) as (server,):
        turns = {
            str(clients): lambda clients=clients: _load(settings, server, clients, next(seeds))
            for clients in _CLIENTS
        }
        found = interleave(min(_ROUNDS, settings.rounds), turns, "growth, clients")
    return _loads(found)


def _loads(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: {
            "per_second": spread([each[name]["per_second"] for each in found]),
            "failed": [each[name]["failed"] for each in found],
            **{
                at: spread([each[name]["ms"][at] for each in found]) for at in ("p50", "p95", "p99")
            },
        }
        for name in found[0]
    }


def _path(root: str) -> Any:
    from pathlib import Path

    return Path(root)


def _core_counts() -> list[int]:
    """1, 2, 4 and so on, and all that there are."""
    cores = len(os.sched_getaffinity(0))
    return sorted(
        {1 << power for power in range(cores.bit_length()) if 1 << power < cores} | {cores}
    )


def _cores(settings: Settings) -> dict[str, Any]:
    given = _given(settings, products(settings))
    usable = sorted(os.sched_getaffinity(0))
    bundle, snapshots = models.bundle(settings, _MODEL), _path(given["snapshots"])
    searches: list[Any] = []
    for count in _core_counts():
        cores = set(usable[:count])
        searches.append(
            partial(
                Contender,
                f"search-{count}",
                "ours_search.py",
                {**given, "threads": count},
                cores=cores,
                environment={"OMP_NUM_THREADS": str(count)},
            )
        )
        searches.append(
            partial(
                servers.ours,
                settings.work,
                bundle,
                snapshots,
                name=f"http-{count}",
                cores=cores,
                environment={"FASHIONBERT_THREADS": str(count), "OMP_NUM_THREADS": str(count)},
            )
        )
    seeds = load.seeds()
    with started(*searches) as contenders:

        def turn(contender: Paused) -> dict[str, Any]:
            if isinstance(contender, Contender):
                return contender.run(candidates=CANDIDATES, seconds=settings.seconds)
            assert isinstance(contender, servers.Server)
            return _load(settings, contender, 4, next(seeds))

        for contender in contenders:
            contender.pause()
        turns = {contender.name: partial(turn, contender) for contender in contenders}
        found = interleave(min(_ROUNDS, settings.rounds), turns, "growth, cores")
    searched = [name for name in turns if name.startswith("search")]
    loaded = [{name: each[name] for name in turns if name.startswith("http")} for each in found]
    return {
        **{name: _of([each[name] for each in found]) for name in searched},
        **_loads(loaded),
    }
