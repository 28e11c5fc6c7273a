"""Our service against infinity's /rerank: 64 candidates a request, from 1 to 16 clients."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks import load, models, peers, servers, synthetic, workload
from benchmarks.contender import interleave
from benchmarks.measure import ratio, spread
from benchmarks.results import Results
from benchmarks.settings import CANDIDATES, Settings
from model.bundle import Bundle

CLIENTS = (1, 4, 16)
PEERS = ("infinity-onnx", "infinity-torch")
OURS = ("match", "search")
PRODUCTS = 10_000
_BATCHES = (8, 32)  # of infinity; 32 is its default
_ROUNDS = 3


def run(settings: Settings) -> None:
    """Measure each number of clients."""
    results = Results(settings.results, "rerank-server", settings.measured)
    models.ensure(settings)
    for name in PEERS:
        peers.ready(settings.peers, name)
    batches = {
        name: results.step(f"batch/{name}", partial(_best, settings, name)) for name in PEERS
    }
    missing = [clients for clients in CLIENTS if not results.has(f"clients/{clients}")]
    if missing:
        running = _start(settings, {name: one["best"] for name, one in batches.items()})
        try:
            for clients in missing:
                results.step(f"clients/{clients}", partial(_measure, settings, running, clients))
        finally:
            for server in running.values():
                server.end()
    results.finish(peers={name: peers.versions(settings.peers, name) for name in PEERS})


def products(settings: Settings) -> int:
    """Of the catalogue that is searched."""
    return 200 if settings.quick else PRODUCTS


def requests(settings: Settings) -> dict[str, dict[str, Any]]:
    """What `load.run` needs for each kind of request."""
    common = {"words": models.words(settings), "query_words": workload.QUERY_WORDS}
    ids = [synthetic.product_id(row) for row in range(CANDIDATES)]
    return {
        "health": common,
        "search": common,
        "match": {**common, "ids": ids},
        "infinity": {**common, "documents": workload.pairs(settings)["documents"]},
    }


def _best(settings: Settings, name: str) -> dict[str, Any]:
    """The batch size with which a peer answers one client soonest."""
    spent = {}
    for batch in _BATCHES:
        server = servers.infinity(settings, name, batch)
        try:
            given = requests(settings)["infinity"]
            outcome = load.run(
                server.address, "infinity", 1, settings.load_seconds / 2, seed=0, **given
            )
        finally:
            server.end()
        _check(name, outcome)
        spent[batch] = outcome["ms"]["p50"]
    return {
        "ms": {str(batch): ms for batch, ms in spent.items()},
        "best": min(spent, key=spent.__getitem__),
    }


def _start(settings: Settings, batches: dict[str, int]) -> dict[str, servers.Server]:
    bundle = models.bundle(settings, "khalf-int8")
    snapshots = synthetic.snapshot(settings.work, Bundle.open(bundle), products(settings))
    running: dict[str, servers.Server] = {}
    try:
        running["ours"] = servers.ours(settings.work, bundle, snapshots)
        for name, batch in batches.items():
            for server in running.values():
                server.pause()
            running[name] = servers.infinity(settings, name, batch)
        for server in running.values():
            server.pause()
    except BaseException:
        for server in running.values():
            server.end()
        raise
    return running


def _measure(
    settings: Settings, running: dict[str, servers.Server], clients: int
) -> dict[str, Any]:
    seeds = load.seeds()
    given = requests(settings)

    def turn(server: servers.Server, kind: str) -> dict[str, Any]:
        with server.turn():
            outcome = load.run(
                server.address,
                kind,
                clients,
                settings.load_seconds,
                seed=1000 * clients + next(seeds),
                **given[kind],
            )
        _check(server.name, outcome)
        return outcome

    turns = {f"ours-{kind}": partial(turn, running["ours"], kind) for kind in OURS}
    turns |= {name: partial(turn, running[name], "infinity") for name in PEERS}
    found = interleave(min(_ROUNDS, settings.rounds), turns, f"rerank-server, {clients} clients")
    pairs = {name: [CANDIDATES * each[name]["per_second"] for each in found] for name in found[0]}
    return {
        "rounds": found,
        "pairs_per_second": {name: spread(each) for name, each in pairs.items()},
        "ratios": {
            f"ours-{kind}": {name: ratio(pairs[f"ours-{kind}"], pairs[name]) for name in PEERS}
            for kind in OURS
        },
    }


def _check(name: str, outcome: dict[str, Any]) -> None:
    """A server that refuses is not fast."""
    if outcome["failed"] or not outcome["requests"]:
        raise RuntimeError(f"{name} answered {outcome['requests']}, refused {outcome['failed']}")
