"""`fashionbert evaluate`: how well a bundle ranks products it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.cli import options
from service.cli.output import note, out


def evaluate(
    feed: options.Feed,
    bundle: options.Bundle = None,
    images: options.Images = None,
    text: options.Text = None,
    id_column: options.IdColumn = "id",
    image_column: options.ImageColumn = "image",
    title_column: options.TitleColumn = "title",
    description_column: options.DescriptionColumn = "description",
    separator: options.Separator = "|",
    max_bad: options.MaxBad = 0.05,
    group_by: options.GroupBy = None,
    queries: Annotated[int, typer.Option(help="Queries each way.", min=1)] = 1000,
    candidates: Annotated[int, typer.Option(help="Reranked by the two-stage search.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Of the queries and the negatives.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here too.")
    ] = None,
    threads: options.Threads = None,
    device: options.Device = None,
) -> None:
    """Rank unseen products both ways: recall, rerank of everything, and the two as served.

    Sampled: the paper's 101 candidates, negatives of the same --group-by. Full: the whole feed.

    \b
    Example:
      fashionbert evaluate val.csv --bundle bundle/ --group-by category --json figures.json
    """
    from model.bundle import Bundle
    from model.catalogue import read_catalogue
    from model.engine import Engine
    from model.errors import CatalogueError
    from model.evaluate import encode_catalogue, table_rows
    from model.evaluate import evaluate as run
    from model.files import write_json
    from model.progress import progress_bars
    from service.settings import missing

    if bundle is None:
        raise missing("bundle")
    model = Bundle.open(bundle)
    engine = Engine(model, threads=threads, device=device or "cpu")
    with read_catalogue(
        feed,
        images=images,
        text=text if text is not None else model.manifest.text_template,
        columns=options.columns(
            id_column, image_column, title_column, description_column, separator
        ),
        max_bad=max_bad,
        progress=True,
    ) as catalogue:
        note(catalogue.report.summary())
        options.check_group_by(catalogue, group_by)
        if len(catalogue) < 2:
            raise CatalogueError(f"{feed} has one product: there is nothing to rank it against")
        with progress_bars() as bars:
            encoded = encode_catalogue(engine, catalogue, group_by=group_by, progress=bars)
            result = run(
                encoded,
                engine.match,
                queries=queries,
                candidates=candidates,
                seed=seed,
                progress=bars,
            )
    figures = {"model_id": engine.model_id, **result.figures}
    if json_file is not None:
        write_json(json_file, figures)
    out().print(f"{engine.model_id} on {feed.name}, {figures['queries']:,} queries each way")
    for direction in ("text_to_image", "image_to_text"):
        table = Table(title=direction.replace("_to_", " → "), box=None, title_justify="left")
        for column in ("among", "stage"):
            table.add_column(column, no_wrap=True)
        for column in ("R@1", "95 %", "R@5", "R@10", "mean", "R@last"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in table_rows(figures[direction]):
            table.add_row(*row)
        out().print(table)
    matching = figures["matching"]
    out().print(f"matching: accuracy {matching['accuracy']:.1f}, AUC {matching['auc']:.1f}")
