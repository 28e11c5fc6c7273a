"""`fashionbert evaluate`: how well a model ranks products it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.errors import FashionBertError
from model.product import Catalogue
from service.cli import options
from service.cli.output import note, out
from service.records import DEFAULT_CANDIDATES

if TYPE_CHECKING:
    from model.evaluate_bundle import EvaluatedBundle
    from model.evaluate_checkpoint import EvaluatedCheckpoint

#: Pairs up to which the whole feed is reranked for each query unless told otherwise.
FEW_PAIRS = 200_000


def evaluate(
    context: typer.Context,
    feed: options.Feed,
    bundle: options.Bundle = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A run's best/ folder, instead of a bundle; needs torch."),
    ] = None,
    images: options.Images = None,
    text: options.Text = None,
    id_column: options.IdColumn = "id",
    image_column: options.ImageColumn = "image",
    title_column: options.TitleColumn = "title",
    description_column: options.DescriptionColumn = "description",
    separator: options.Separator = "|",
    list_column: options.ListColumn = None,
    max_bad: options.MaxBad = 0.05,
    group_by: options.GroupBy = None,
    only: Annotated[
        Path | None,
        typer.Option(
            help="A file with a product id a line: evaluate on these products of the feed alone, "
            "such as a run's held_out.txt."
        ),
    ] = None,
    queries: Annotated[int, typer.Option(help="Queries each way.", min=1)] = 1000,
    candidates: Annotated[
        int, typer.Option(help="Reranked by the two-stage search.", min=1)
    ] = DEFAULT_CANDIDATES,
    rerank_all: Annotated[
        bool,
        typer.Option(
            "--rerank-all/--no-rerank-all",
            help="Rerank all sampled candidates too; without, only those of the two stages.",
        ),
    ] = True,
    full_rerank: Annotated[
        bool | None,
        typer.Option(
            "--full-rerank/--no-full-rerank",
            help="Rerank the whole feed for each query too; by default where that is at most "
            f"{FEW_PAIRS:,} pairs.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the queries and the negatives.", min=0)] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here too.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="With --checkpoint: where picture features are kept; the run's cache/ by default."
        ),
    ] = None,
    threads: options.Threads = None,
    device: options.Device = None,
) -> None:
    """Rank unseen products both ways: recall, rerank of everything, and the two as served.

    Sampled: the paper's 101 candidates, negatives of the same --group-by. Full: the whole feed.
    A model without recall head, such as the preset paper, is evaluated by its rerank alone.

    \b
    Example:
      fashionbert evaluate val.csv --bundle bundle/ --group-by category --json figures.json
      fashionbert evaluate val.csv --checkpoint runs/shop/best --group-by category
      fashionbert evaluate feed.csv --checkpoint runs/shop/best --only runs/shop/held_out.txt
    """
    from model.catalogue import read_catalogue
    from model.errors import CatalogueError
    from model.evaluate import evaluate as run
    from model.holdout import read_ids
    from model.progress import progress_bars
    from service.cli.figures import print_figures

    if checkpoint is not None:
        source = context.get_parameter_source("bundle")  # the variable does not count
        if source is not None and source.name == "COMMANDLINE":
            raise FashionBertError("--checkpoint and --bundle: give one of the two")
        bundle = None
    ids = None if only is None else read_ids(only)
    if json_file is not None:
        options.check_output("--json", json_file)
    model = _open(bundle, checkpoint, threads, device, cache)
    if not (model.has_recall or rerank_all):
        raise FashionBertError(
            f"--no-rerank-all: {model.name} has no recall head, so without the rerank there is "
            "nothing to rank by"
        )
    with read_catalogue(
        feed,
        images=images,
        text=text if text is not None else model.text_template,
        columns=options.columns(
            id_column, image_column, title_column, description_column, separator, list_column
        ),
        max_bad=max_bad,
        progress=True,
    ) as whole:
        note(whole.report.summary())
        catalogue = whole if ids is None else _chosen(whole, ids)
        options.check_group_by(catalogue, group_by)
        if len(catalogue) < 2:
            few = f"{feed} has" if only is None else f"--only {only} leaves"
            raise CatalogueError(f"{few} one product: there is nothing to rank it against")
        rerank_in_full = _reranks_in_full(full_rerank, catalogue, queries)
        _remark(model, rerank_in_full)
        with progress_bars() as bars:
            result = run(
                model.encode(catalogue, group_by, bars),
                model.match,
                queries=queries,
                candidates=candidates,
                rerank_all=rerank_all,
                rerank_in_full=rerank_in_full,
                seed=seed,
                progress=bars,
            )
    figures = {
        **model.about,
        "feed": feed.name,
        "feed_fingerprint": catalogue.fingerprint,
        "group_by": group_by,
        "seed": seed,
        # Here in the order, if there are two stages.
        **({"candidates": candidates} if model.has_recall else {}),
        **({} if only is None else {"only": only.name}),
        **result.figures,
    }
    _note_pools(figures)
    try:
        out().print(
            f"{model.name} on {feed.name}, {figures['queries']:,} queries each way\n",
            markup=False,
            soft_wrap=True,
        )
        print_figures(out(), figures)
    finally:  # also where nobody reads the table to its end
        if json_file is not None:
            _write(json_file, figures)


def _chosen(catalogue: Catalogue, ids: set[str]) -> Catalogue:
    """The products of --only; says so where some are not there."""
    from model.holdout import only

    chosen = only(catalogue, ids)
    there = len({product.id for product in chosen.products})
    left_out = "" if there >= len(ids) else f", {len(ids) - there:,} ids of --only are not in it"
    note(f"{len(chosen):,} of {len(catalogue):,} products are evaluated{left_out}")
    return chosen


def _note_pools(figures: dict[str, Any]) -> None:
    """Say so where the sampled figures are easier than their name says."""
    from model.evaluate import DIRECTIONS
    from model.ranking import NEGATIVES

    stages = figures[DIRECTIONS[0]]["sampled"].values()
    among = next(iter(stages))["candidates"]
    if among <= NEGATIVES:
        note(
            f"each right answer stands among {among}, not {1 + NEGATIVES}, which is easier: so few "
            "products have another text than the query that has the fewest such"
        )


def _write(path: Path, figures: dict[str, Any]) -> None:
    """Write the figures of --json, once they have been shown."""
    from model.files import write_json

    try:
        write_json(path, figures)
    except OSError as error:
        raise options.unwritable("--json", path, error) from error


def _open(
    bundle: Path | None,
    checkpoint: Path | None,
    threads: int | None,
    device: str | None,
    cache: Path | None,
) -> EvaluatedBundle | EvaluatedCheckpoint:
    """The checkpoint where one is given, or else the bundle, which needs no torch."""
    if checkpoint is not None:
        options.require_training()
        from model.evaluate_checkpoint import EvaluatedCheckpoint

        return EvaluatedCheckpoint(checkpoint, threads=threads, device=device, cache=cache)
    from model.evaluate_bundle import EvaluatedBundle
    from model.pretrained import pretrained

    return EvaluatedBundle(bundle or pretrained(), threads=threads, device=device)


def _reranks_in_full(wanted: bool | None, catalogue: Catalogue, queries: int) -> bool:
    """Whether each query is matched with the whole feed; says so where it is not for its cost."""
    pictures = sum(len(product.images) for product in catalogue.products)
    pairs = min(queries, len(catalogue)) * (pictures + len(catalogue))
    if wanted is None and pairs > FEW_PAIRS:
        note(
            f"the whole feed is not reranked for each query, which is {pairs:,} pairs: "
            "--full-rerank does it"
        )
        return False
    return wanted is not False


def _remark(model: EvaluatedBundle | EvaluatedCheckpoint, rerank_in_full: bool) -> None:
    """Say what the reader of the figures could take for something else."""
    if not model.fitted:
        note(
            f"{model.name} is of a training that has not ended, or had no products to choose by "
            "(--valid): the weights of recall and match in the served score are not fitted, so the "
            "match logit ranks alone"
        )
    if not model.has_recall:
        left_out = "recall and two stages"
        if not rerank_in_full:
            left_out = "recall, two stages and the ranking among the whole feed"
        note(f"{model.name} has no recall head: {left_out} are left out")
