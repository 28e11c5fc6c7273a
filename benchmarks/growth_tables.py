"""Markdown tables of the part that grows: candidates, products, clients, cores."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import number, shown, table
from benchmarks.settings import CATALOGUES


def growth(steps: dict[str, Any]) -> str:
    """Candidates, products, clients, cores."""
    candidates = table(
        ["candidates", "milliseconds", "milliseconds a candidate", "pairs/s"],
        (
            [
                name,
                shown(one["milliseconds"]),
                number(one["milliseconds"]["median"] / int(name)),
                number(1000 * int(name) / one["milliseconds"]["median"]),
            ]
            for name, one in steps["candidates"].items()
        ),
    )
    sizes = {
        int(step.removeprefix("catalogue/")): found
        for step, found in steps.items()
        if step.startswith("catalogue/")
    }
    stages = ("encode", "recall", "gather", "rerank")
    catalogue = table(
        ["products", "milliseconds", *(f"{stage} ms" for stage in stages)],
        (
            [
                f"{size:,}",
                shown(one["milliseconds"]),
                *(number(one["stages"][stage]["median"]) for stage in stages),
            ]
            for size, one in sorted(sizes.items())
        ),
    )
    if left_out := [f"{size:,}" for size in CATALOGUES if size not in sizes]:
        catalogue += f"\n\nNot measured, for want of disk: {', '.join(left_out)} products."
    return "\n\n".join(
        (
            "Candidates, 10,000 products, in the process:",
            candidates,
            "Products, 64 candidates, in the process:",
            catalogue,
            "Clients, 64 candidates, 10,000 products, over HTTP:",
            _loads("clients", steps["clients"]),
            "Cores, 64 candidates, 10,000 products: in the process, and over HTTP with 4 clients "
            "beside the load generator:",
            _cores(steps["cores"]),
        )
    )


def _loads(what: str, found: dict[str, Any]) -> str:
    return table(
        [what, "searches/s", "pairs/s", "p50 ms", "p95 ms", "p99 ms", "refused"],
        (
            [
                name,
                shown(one["per_second"]),
                number(64 * one["per_second"]["median"]),
                *(shown(one[at]) for at in ("p50", "p95", "p99")),
                str(sum(sum(each.values()) for each in one["failed"])),
            ]
            for name, one in found.items()
        ),
    )


def _cores(found: dict[str, Any]) -> str:
    counts = [name.removeprefix("search-") for name in found if name.startswith("search-")]
    return table(
        ["cores", "milliseconds in the process", "searches/s over HTTP", "p50 ms over HTTP"],
        (
            [
                count,
                shown(found[f"search-{count}"]["milliseconds"]),
                shown(found[f"http-{count}"]["per_second"]),
                shown(found[f"http-{count}"]["p50"]),
            ]
            for count in counts
        ),
    )
