"""Exact, HNSW and IVF-PQ on 10⁴ to 10⁷ vectors: what they find, take, and weigh."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import synthetic
from benchmarks.contender import interleave
from benchmarks.measure import percentiles, spread
from benchmarks.results import Results
from benchmarks.settings import CANDIDATES, Settings
from index.recall import RecallIndex
from index.recall_rules import IVFPQ_FROM, RULES, Rule, choose_rule

_SIZE = 256
_QUERIES = 200
#: HNSW of more takes hours to build here, and exact search more time than the reranker.
_ONLY_IVFPQ_FROM = 3_000_000
_BLOCK = 1 << 18


def run(settings: Settings) -> None:
    """Measure each number of vectors: build, then search."""
    results = Results(settings.results, "recall", settings.measured)
    for count in counts(settings):
        for rule in rules(count):
            results.step(f"{count}/build/{rule}", partial(_build, settings, count, rule))
        results.step(f"{count}/default", partial(choose_rule, count))
        results.step(f"{count}/search", partial(_search, settings, count))
    results.finish(vector_size=_size(settings))


def counts(settings: Settings) -> list[int]:
    """Numbers of vectors."""
    if settings.quick:
        return [IVFPQ_FROM]
    every = (10_000, 100_000, 1_000_000, 10_000_000)
    return [count for count in every if count <= settings.most_vectors]


def rules(count: int) -> list[Rule]:
    """Those measured on so many vectors."""
    return [rule for rule in RULES if count < _ONLY_IVFPQ_FROM or rule == "ivfpq"]


def _size(settings: Settings) -> int:
    return 64 if settings.quick else _SIZE


def _build(settings: Settings, count: int, rule: Rule) -> dict[str, Any]:
    # Drawing the vectors is none of the building.
    synthetic.vectors(settings.work, count, _size(settings))
    _, about = synthetic.recall_index(settings.work, count, _size(settings), rule)
    return {**about, "bytes_a_vector": about["bytes"] / count}


def _search(settings: Settings, count: int) -> dict[str, Any]:
    size = _size(settings)
    stored = synthetic.vectors(settings.work, count, size)
    queries = synthetic.queries(settings.work, count, size, _QUERIES)
    best = nearest(stored, queries, CANDIDATES)
    indexes = {
        rule: RecallIndex(synthetic.recall_index(settings.work, count, size, rule)[0], stored, rule)
        for rule in rules(count)
    }

    def turn(index: RecallIndex) -> dict[str, Any]:
        index.search(queries[0], CANDIDATES)
        spent, found = [], 0
        for query, wanted in zip(queries, best, strict=True):
            start = time.perf_counter()
            rows, _ = index.search(query, CANDIDATES)
            spent.append(1000 * (time.perf_counter() - start))
            found += len(np.intersect1d(rows, wanted))
        return {"ms": percentiles(spent), "recall": found / best.size}

    turns: dict[str, Any] = {rule: partial(turn, index) for rule, index in indexes.items()}
    found = interleave(settings.rounds, turns, f"recall, {count:,} vectors")
    return {
        rule: {
            "recall": found[0][rule]["recall"],
            **{at: spread([each[rule]["ms"][at] for each in found]) for at in ("p50", "p99")},
        }
        for rule in turns
    }


def nearest(stored: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The rows int64 [Q, k] of the largest products with each query, by comparing all."""
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.zeros((len(queries), k), dtype=np.int64)
    for start in range(0, len(stored), _BLOCK):
        block = queries @ stored[start : start + _BLOCK].T
        taken = min(k, block.shape[1])
        at = np.argpartition(-block, taken - 1, axis=1)[:, :taken]
        scores = np.concatenate([scores, np.take_along_axis(block, at, 1)], axis=1)
        rows = np.concatenate([rows, at + start], axis=1)
        kept = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        scores, rows = np.take_along_axis(scores, kept, 1), np.take_along_axis(rows, kept, 1)
    return rows
