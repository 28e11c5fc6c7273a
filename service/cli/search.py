"""`fashionbert search`: one search, answered in the terminal."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from pydantic_core import from_json
from rich.table import Table

from model.errors import FashionBertError, ImageError
from service.cli import options
from service.cli.output import note, out, plain
from service.records import DEFAULT_FACET_VALUES, DEFAULT_K, SearchResult, Selection
from service.settings import load_settings

_ID_WIDTH = 24


def search(
    query: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="Search with this picture instead: JPEG, PNG or WebP.")
    ] = None,
    bundle: options.Bundle = None,
    snapshots: options.Snapshots = None,
    k: Annotated[int, typer.Option("--k", "-k", help="How many hits.")] = DEFAULT_K,
    candidates: Annotated[
        int | None, typer.Option(help="How many products are reranked; 64 by default.")
    ] = None,
    rerank: Annotated[
        bool, typer.Option(help="Rerank the candidates; without, the order of the recall.")
    ] = True,
    budget_ms: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Milliseconds for the search: the best are reranked first, and the rest follows "
            "in the order of the recall.",
        ),
    ] = None,
    filters: Annotated[
        str | None,
        typer.Option("--filter", help="Which products may be found, as JSON; see the example."),
    ] = None,
    facets: Annotated[
        list[str] | None,
        typer.Option("--facet", help="Count this attribute's values; may be given several times."),
    ] = None,
    facet_values: Annotated[
        int, typer.Option(help="Most values of a facet.")
    ] = DEFAULT_FACET_VALUES,
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON object.")] = False,
    threads: options.Threads = None,
    device: options.Device = None,
) -> None:
    """Search the catalogue by a text or by a picture.

    \b
    Examples:
      fashionbert search "black midi dress with long sleeves"
      fashionbert search --image photo.jpg -k 5
      fashionbert search "coat" --filter '{"colour": ["black", "navy"], "price": {"lte": 50}}'
    """
    from service.live_search import open_live_search
    from service.reranking import FAILED

    if (query is None) == (image is None):
        raise FashionBertError("say what to look for: either a text or --image FILE")
    settings = load_settings(
        bundle=bundle, snapshots=snapshots, threads=threads, device=device, verify_snapshot=False
    )
    selection = Selection(_parsed(filters), tuple(facets or ()), facet_values)
    data = None if image is None else _read(image, settings.max_upload_bytes)
    searcher = open_live_search(settings).searcher()
    wanted = settings.candidates if candidates is None else candidates
    deadline = None if budget_ms is None else time.perf_counter() + budget_ms / 1000
    if data is not None:
        result = searcher.search_image(data, k, wanted, rerank, selection, deadline=deadline)
    else:
        assert query is not None
        result = searcher.search_text(query, k, wanted, rerank, selection, deadline=deadline)
    if as_json:
        typer.echo(json.dumps(_as_json(result), ensure_ascii=False, indent=2))
        return
    out().print(_table(result))
    if result.facets:
        out().print(_facets(result))
    stages = " · ".join(f"{name} {spent:.1f}" for name, spent in result.timings.items())
    note(f"{stages} ms")
    if result.degraded == FAILED:
        note("the reranker failed: the hits are in the order of the recall")
    elif result.reranked < result.candidates:
        note(f"{result.reranked:,} of {result.candidates:,} candidates were reranked in time")
    if filters is not None:
        note(f"{result.matching:,} products match the filter")
    if result.truncated:
        note("the text is longer than the model reads: only its beginning counted")


def _parsed(filters: str | None) -> dict[str, object] | None:
    if filters is None:
        return None
    try:
        parsed: dict[str, object] = from_json(filters)  # the searcher checks that it is an object
    except ValueError as error:
        raise FashionBertError(
            f"--filter is not JSON ({error}): quote it for the shell, such as "
            """--filter '{"colour": "black"}'"""
        ) from error
    return parsed


def _as_json(result: SearchResult) -> dict[str, object]:
    shown = (
        *("hits", "truncated", "degraded", "matching", "candidates", "reranked"),
        *("facets", "timings"),
    )
    return {
        name: value
        for name, value in asdict(replace(result, encoded=None)).items()
        if name in shown
    }


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise FashionBertError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > max_bytes:
        raise ImageError(
            f"{path} has more than {max_bytes:,} bytes: use a smaller one", code="too_many_bytes"
        )
    return data


def _table(result: SearchResult) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name, width in (("rank", 4), ("score", 7), ("probability", 11), ("recall rank", 11)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    longest = max((len(hit.item.id) for hit in result.hits), default=0)
    table.add_column("id", no_wrap=True, min_width=min(longest, _ID_WIDTH))
    table.add_column("title", no_wrap=True)  # the one that gives way on a narrow terminal
    for hit in result.hits:
        table.add_row(
            str(hit.rank),
            "–" if hit.score is None else f"{hit.score:.3f}",
            "–" if hit.probability is None else f"{hit.probability:.3f}",
            str(hit.recall_rank),
            plain(hit.item.id),
            plain(hit.item.title),
        )
    return table


def _facets(result: SearchResult) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("facet", "value"):
        table.add_column(name, overflow="fold")
    table.add_column("products", justify="right", no_wrap=True)
    for name, facet in result.facets.items():
        rows = [(plain(value), f"{count:,}") for value, count in facet.values]
        others = facet.distinct - len(rows)
        if others:
            # A product with a list of values is counted at each: how many have others is not known.
            listed = facet.type in ("strings", "mixed")
            counted = sum(count for _, count in facet.values) + facet.missing
            rest = "–" if listed else f"{result.matching - counted:,}"
            rows.append((plain(f"{others:,} others"), rest))
        if facet.missing:
            rows.append((plain("none"), f"{facet.missing:,}"))
        for place, (value, count) in enumerate(rows):
            table.add_row(plain("" if place else name), value, count)
    return table
