"""Pairs a second against what measured peaks allow for the operations that must be done."""

from __future__ import annotations

import json
import statistics
from functools import partial
from typing import Any

from benchmarks import models, workload
from benchmarks.contender import Contender, interleave, started
from benchmarks.measure import spread
from benchmarks.operations import Shape, bytes_of_pair, of_pair
from benchmarks.results import Results
from benchmarks.settings import CANDIDATES, DOCUMENT_TOKENS, QUERY_TOKENS, Settings

_ROWS = 8 * (QUERY_TOKENS + DOCUMENT_TOKENS)  # of a pass: eight pairs
_PROVIDERS = ("onnxruntime", "torch")
_LARGE = 2048
_MEMORY = 512 * 1024**2


def run(settings: Settings) -> None:
    """Measure peaks and engines in the same rounds."""
    results = Results(settings.results, "limit", settings.measured)
    models.ensure(settings)
    results.step("rounds", partial(_measure, settings))
    results.finish()


def shape_of(settings: Settings, name: str) -> Shape:
    """The layers of one of our models."""
    fields = json.loads((models.checkpoint(settings, name) / "config.json").read_bytes())
    shape = models.TINY_SHAPE if settings.quick else models.SHAPE
    return Shape(
        layers=fields.get("num_hidden_layers", shape["num_hidden_layers"]),
        joint_from=fields.get("joint_from", 0),
        heads=fields.get("num_attention_heads", shape["num_attention_heads"]),
        hidden=fields.get("hidden_size", shape["hidden_size"]),
        intermediate=fields.get("intermediate_size", shape["intermediate_size"]),
        text_tokens=QUERY_TOKENS,
        patches=DOCUMENT_TOKENS,
    )


def _shapes(shape: Shape) -> dict[str, tuple[int, int, int]]:
    """The products of a layer in a pass of eight pairs, and a large one."""
    h, wide = shape.hidden, shape.intermediate
    large = 256 if h < 128 else _LARGE
    return {
        "query, key, value": (_ROWS, h, 3 * h),
        "attention output": (_ROWS, h, h),
        "intermediate": (_ROWS, h, wide),
        "output": (_ROWS, wide, h),
        "large": (large, large, large),
    }


def _measure(settings: Settings) -> dict[str, Any]:
    shapes = _shapes(shape_of(settings, "khalf-fp32"))
    engines = [
        partial(
            Contender,
            name,
            "ours_engine.py",
            {"bundle": str(models.bundle(settings, name)), **workload.pairs(settings)},
        )
        for name in models.OURS
    ]
    with started(partial(Contender, "peaks", "peaks.py", {}), *engines) as (peaks, *ours):
        brief = settings.seconds / 4
        turns: dict[str, Any] = {}
        for precision in ("fp32", "int8"):
            for by in _PROVIDERS:
                for place, sizes in shapes.items():
                    turns[f"{precision}-{by}/{place}"] = partial(
                        peaks.run, kind=f"{precision}-{by}", shape=sizes, seconds=brief
                    )
        for kind in ("read", "copy"):
            turns[kind] = partial(peaks.run, kind=kind, bytes=_MEMORY, seconds=brief)
        turns |= {one.name: partial(one.run, seconds=settings.seconds) for one in ours}
        found = interleave(settings.rounds, turns, "limit")
        times = peaks.facts["times"]
    spent = {name: [statistics.median(each[name]["ms"]) for each in found] for name in turns}
    gigaflops = {
        name: [2e-6 * times * m * k * n / ms for ms in spent[name]]
        for name in turns
        for m, k, n in [shapes.get(name.partition("/")[2], (0, 0, 0))]
        if m
    }
    pairs = {one: [1000 * CANDIDATES / ms for ms in spent[one]] for one in models.OURS}
    moved = {"read": 1, "copy": 2}
    memory = {kind: [1e-6 * moved[kind] * _MEMORY / ms for ms in spent[kind]] for kind in moved}
    return {
        "shapes": shapes,
        "gigaflops": {name: spread(each) for name, each in gigaflops.items()},
        "gigabytes_per_second": {kind: spread(each) for kind, each in memory.items()},
        "pairs_per_second": {name: spread(each) for name, each in pairs.items()},
        "engines": {
            name: _against(settings, name, gigaflops, memory, pairs[name]) for name in models.OURS
        },
    }


def _against(
    settings: Settings,
    name: str,
    gigaflops: dict[str, list[float]],
    memory: dict[str, list[float]],
    pairs: list[float],
) -> dict[str, Any]:
    """What the peaks allow one engine, round by round, and the share of it that it reaches."""
    shape = shape_of(settings, name)
    counted = of_pair(shape, CANDIDATES)
    precision = "int8" if name.endswith("int8") else "fp32"
    allowed = []
    for number in range(len(pairs)):
        matrix = _layer_peak(shape, precision, gigaflops, number)
        attention = _layer_peak(shape, "fp32", gigaflops, number)
        seconds = 1e-9 * (counted.matrix / matrix + counted.attention / attention)
        bound = max(each[number] for each in memory.values())
        allowed.append(1 / max(seconds, 1e-9 * bytes_of_pair(shape, CANDIDATES) / bound))
    return {
        "precision": precision,
        "megaflop_a_pair": {
            "matrix": counted.matrix / 1e6,
            "attention": counted.attention / 1e6,
            "dense": counted.dense / 1e6,
        },
        "kilobytes_a_pair": bytes_of_pair(shape, CANDIDATES) / 1e3,
        "allowed_pairs_per_second": spread(allowed),
        "share_percent": spread([100 * a / b for a, b in zip(pairs, allowed, strict=True)]),
        "gigaflops_reached": spread([one * counted.total / 1e9 for one in pairs]),
    }


def _layer_peak(
    shape: Shape, precision: str, gigaflops: dict[str, list[float]], number: int
) -> float:
    """GFLOP/s of a layer's products together, each by whoever was fastest in that round."""
    work = spent = 0.0
    for place, (m, k, n) in _shapes(shape).items():
        if place == "large":
            continue
        best = max(gigaflops[f"{precision}-{by}/{place}"][number] for by in _PROVIDERS)
        work += m * k * n
        spent += m * k * n / best
    return work / spent
