"""What filters cost and what they lose: recall@k against exact search, and milliseconds.

    python benchmarks/filters.py --products 100000 --size 256
    python benchmarks/filters.py --rules hnsw ivfpq --compare-up-to 0   # always through the index

Vectors lie around centres, as products lie around kinds of product. A `random` filter passes
products wherever they lie, a `kinds` filter those of some centres only, which need not be near the
query: the harder case for an approximate index. Exact search by numpy is the truth.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.filter_parser import parse_filter
from index.filters import evaluate
from index.items import Item, Items, write_items
from index.recall import RecallIndex, write_index
from index.recall_rules import RULES


def clustered(
    count: int, size: int, centres: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit vectors float32 [count, size], and the centre of each."""
    rng = np.random.default_rng(seed)
    middle = np.random.default_rng(0).standard_normal((centres, size), dtype=np.float32)
    kinds = rng.integers(0, centres, count)
    vectors = middle[kinds] + np.float32(0.7) * rng.standard_normal((count, size), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, kinds


def masks(
    kinds: NDArray[np.int64], centres: int, shares: list[float]
) -> dict[tuple[str, float], NDArray[np.bool_]]:
    """A filter of each sort for each share of the products."""
    rng = np.random.default_rng(2)
    found = {}
    for share in shares:
        found["random", share] = rng.random(len(kinds)) < share
        whole = rng.permutation(centres)[: max(1, round(share * centres))]
        inside = np.isin(kinds, whole)
        kept = share * len(kinds) / max(1, int(np.count_nonzero(inside)))
        found["kinds", share] = inside & (rng.random(len(kinds)) < kept)
    return found


def measure_recall(arguments: argparse.Namespace, folder: Path) -> None:
    """Print a row for each rule and filter."""
    vectors, kinds = clustered(arguments.products, arguments.size, arguments.centres, 1)
    queries, _ = clustered(arguments.queries, arguments.size, arguments.centres, 3)
    print(f"{'rule':<6} {'filter':<7} {'share':>6} {'products':>9} {'recall':>7} {'ms':>8}")
    for rule in arguments.rules:
        start = time.perf_counter()
        write_index(vectors, rule, folder / rule)
        built = time.perf_counter() - start
        index = RecallIndex(folder / rule, vectors, rule, compare_up_to=arguments.compare_up_to)
        for (sort, share), among in masks(kinds, arguments.centres, arguments.shares).items():
            rows = np.flatnonzero(among)
            found = wanted = 0
            spent = 0.0
            for query in queries:
                start = time.perf_counter()
                got, _ = index.search(query, arguments.k, among=among)
                spent += time.perf_counter() - start
                best = rows[np.argsort(-(vectors[rows] @ query), kind="stable")[: arguments.k]]
                found += len(np.intersect1d(got, best))
                wanted += len(best)
            print(
                f"{rule:<6} {sort:<7} {share:>6} {len(rows):>9,} {found / max(1, wanted):>7.4f} "
                f"{1000 * spent / len(queries):>8.2f}",
                flush=True,
            )
        print(f"{rule:<6} built in {built:.1f} s", flush=True)


def measure_filters(count: int, folder: Path) -> None:
    """Print what evaluating a filter over typed columns costs, first and later."""
    rng = np.random.default_rng(0)
    colours, prices = rng.integers(0, 50, count), rng.integers(100, 20_000, count) / 100
    items = [
        Item(
            f"{n}",
            "",
            "",
            ("1.jpg",),
            {"colour": f"colour {c}", "price": p, "brand": f"b{n % 9000}"},
        )
        for n, (c, p) in enumerate(zip(colours.tolist(), prices.tolist(), strict=True))
    ]
    write_items(items, folder / "items.parquet")
    del items
    columns = Items(folder / "items.parquet")
    for raw in (
        {"colour": "colour 7"},
        {"colour": ["colour 7", "colour 9"], "price": {"gte": 20, "lt": 50}},
        {"or": [{"brand": {"not": "b77"}}, {"price": {"lt": 5}}], "not": {"colour": "colour 3"}},
    ):
        filter = parse_filter(raw, columns.attribute_types)
        spent = []
        for _ in range(20):
            start = time.perf_counter()
            mask = evaluate(filter, columns)
            spent.append(1000 * (time.perf_counter() - start))
        print(
            f"{raw}: {np.count_nonzero(mask):,} of {count:,} products, first {spent[0]:.1f} ms, "
            f"then {np.median(spent[1:]):.2f} ms"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=256, help="of an embedding")
    parser.add_argument("--centres", type=int, default=500, help="kinds of product")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.1, 0.01, 0.001])
    parser.add_argument("--compare-up-to", type=int, default=200_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure_recall(arguments, Path(folder))
        measure_filters(arguments.products, Path(folder))


if __name__ == "__main__":
    main()
