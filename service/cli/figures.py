"""The figures of an evaluation as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from model.evaluate import DIRECTIONS


def print_figures(console: Console, figures: dict[str, Any]) -> None:
    """All of `model.evaluate.Evaluation.figures`, shares in percent with their 95 % intervals."""
    for direction in DIRECTIONS:
        found = figures[direction]
        console.print(direction.replace("_to_", " → "), style="bold")
        columns = ("among", "stage", "R@1, 95 %", "R@5, 95 %", "R@10, 95 %")
        console.print(_table(columns, table_rows(found)))
        console.print(_table(("among", "stage", "mean rank, 95 %"), mean_rows(found)))
        if differences := difference_rows(found):
            console.print("two stages over the others at R@1, 95 %", highlight=False)
            console.print(_table(("among", "over", "points"), differences))
        console.print()
    if "matching" in figures:
        console.print(_matching_line(figures["matching"]), highlight=False)
    sampled = [stage for way in DIRECTIONS for stage in figures[way]["sampled"].values()]
    among, last = sampled[0]["candidates"], min(stage["rank_last"] for stage in sampled)
    console.print(
        f"check, must be 100: {figures['sound_pools']:.1f} % of samples hold one right answer; "
        f"Rank@{among} {last:.1f} %",
        highlight=False,
    )


def _table(columns: Sequence[str], rows: Sequence[tuple[str, ...]]) -> Table:
    """A plain table whose first two columns are words and the others numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for at, column in enumerate(columns):
        table.add_column(column, justify="left" if at < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def table_rows(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """One direction's rows: protocol, stage, R@1, R@5 and R@10 with intervals."""
    return [
        (
            f"{protocol} {f['candidates']:,}",
            stage.replace("_", " "),
            _share(f["rank1"], f["low"], f["high"]),
            _share(f["rank5"], f["rank5_low"], f["rank5_high"]),
            _share(f["rank10"], f["rank10_low"], f["rank10_high"]),
        )
        for protocol, stages in figures.items()
        for stage, f in stages.items()
    ]


def mean_rows(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """One direction's mean ranks with their intervals."""
    return [
        (
            f"{protocol} {f['candidates']:,}",
            stage.replace("_", " "),
            f"{f['mean_rank']:,.1f} {f['mean_rank_low']:,.1f}–{f['mean_rank_high']:,.1f}",
        )
        for protocol, stages in figures.items()
        for stage, f in stages.items()
    ]


def difference_rows(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    """What two stages gain over recall alone, and lose to reranking everything, at Rank@1."""
    return [
        (
            f"{protocol} {stages['two_stage']['candidates']:,}",
            other,
            f"{over['rank1']:+.1f} {over['low']:+.1f} to {over['high']:+.1f}",
        )
        for protocol, stages in figures.items()
        for other in ("recall", "rerank")
        if (over := stages.get("two_stage", {}).get(f"over_{other}"))
    ]


def _share(value: float, low: float, high: float) -> str:
    return f"{_percent(value)} {_percent(low)}–{_percent(high)}"


def _percent(value: float) -> str:
    return "100" if value == 100 else f"{value:.1f}"  # the tables fit 80 columns by this


def _matching_line(matching: dict[str, float]) -> str:
    told = ", ".join(
        f"{name} {_share(matching[key], matching[f'{key}_low'], matching[f'{key}_high'])}"
        for key, name in (("accuracy", "accuracy"), ("auc", "AUC"))
    )
    return f"matching: {told}"
