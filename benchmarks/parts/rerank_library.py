"""One query against 64 candidates: our engine against libraries and bare ONNX Runtime."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from benchmarks import models, peers, workload
from benchmarks.contender import Contender, best_batch, interleave, started
from benchmarks.measure import medians, ratio, spread
from benchmarks.results import Results
from benchmarks.settings import CANDIDATES, DOCUMENT_TOKENS, QUERY_TOKENS, Settings

BATCHES = [4, 8, 16, 32, 64]
OURS = tuple(models.OURS)
PEERS = ("sentence-transformers", "fastembed")
BARE = "bare-onnxruntime"
BARE_INT8 = "bare-onnxruntime-int8"


def run(settings: Settings) -> None:
    """Measure everyone, round by round."""
    results = Results(settings.results, "rerank-library", settings.measured)
    models.ensure(settings)
    for name in PEERS:
        peers.ready(settings.peers, name)
    results.step("rounds", partial(_measure, settings, results))
    results.finish(peers={name: peers.versions(settings.peers, name) for name in PEERS})


def makers(settings: Settings) -> dict[str, Any]:
    """What starts each contender, by name."""
    given = workload.pairs(settings)
    folder = str(models.cross_encoder(settings))
    vocabulary = json.loads((models.cross_encoder(settings) / "config.json").read_bytes())
    bare = {
        "candidates": CANDIDATES,
        "tokens": QUERY_TOKENS + DOCUMENT_TOKENS,
        "query_tokens": QUERY_TOKENS,
        "vocabulary": vocabulary["vocab_size"],
    }
    made: dict[str, Any] = {
        name: partial(
            Contender,
            name,
            "ours_engine.py",
            {"bundle": str(models.bundle(settings, name)), **given},
        )
        for name in OURS
    }
    for name, script in zip(
        PEERS, ("peer_sentence_transformers.py", "peer_fastembed.py"), strict=True
    ):
        python = peers.ready(settings.peers, name)
        made[name] = partial(Contender, name, script, {"folder": folder, **given}, python=python)
    for name, file in ((BARE, "model.onnx"), (BARE_INT8, "int8/model.onnx")):
        made[name] = partial(Contender, name, "bare_ort.py", {"model": f"{folder}/{file}", **bare})
    return made


def _measure(settings: Settings, results: Results) -> dict[str, Any]:
    with started(*makers(settings).values()) as contenders:
        tokens = {one.name: one.facts["tokens"] + one.facts.get("patches", 0) for one in contenders}
        if set(tokens.values()) != {QUERY_TOKENS + DOCUMENT_TOKENS}:
            raise RuntimeError(f"the contenders read pairs of different lengths: {tokens}")
        searched = [one for one in contenders if one.name not in OURS]
        # A step each: a run that was ended need not search again.
        batches = {
            one.name: results.step(f"batch/{one.name}", partial(best_batch, one, BATCHES))
            for one in searched
        }
        turns = {
            one.name: partial(
                one.run,
                seconds=settings.seconds,
                **({"batch": batches[one.name]} if one.name in batches else {}),
            )
            for one in contenders
        }
        found = interleave(settings.rounds, turns, "rerank-library")
        facts = {one.name: one.facts for one in contenders}
    spent = medians([{name: one["ms"] for name, one in each.items()} for each in found])
    pairs = {name: [1000 * CANDIDATES / ms for ms in each] for name, each in spent.items()}
    return {
        "facts": facts,
        "best_batch": batches,
        "milliseconds": {name: spread(each) for name, each in spent.items()},
        "pairs_per_second": {name: spread(each) for name, each in pairs.items()},
        "ratios": {
            ours: {
                theirs: ratio(pairs[ours], pairs[theirs]) for theirs in (*PEERS, BARE, BARE_INT8)
            }
            for ours in OURS
        },
    }
