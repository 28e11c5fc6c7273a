"""`fashionbert catalogue`: make a demo catalogue, check a feed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.errors import CatalogueError
from service.cli import options
from service.cli.output import note, out, plain

app = typer.Typer(help="Make a demo catalogue, or check a feed.", no_args_is_help=True)


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Argument(help="A new or an empty folder, or one with a demo to replace.")
    ],
    products: Annotated[int, typer.Option(help="Products of train.csv.")] = 2400,
    held_out: Annotated[int, typer.Option(help="Products of val.csv.")] = 400,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    held_out_only: Annotated[
        bool,
        typer.Option("--held-out-only", help="Draw val.csv's products alone, without train.csv."),
    ] = False,
) -> None:
    """Write a made-up catalogue: train.csv, val.csv and images.tar, drawn and described.

    \b
    Example:
      fashionbert catalogue demo demo/ --products 2400 --held-out 400
    """
    from model.demo import write_demo_catalogue
    from model.processor import cores

    try:
        write_demo_catalogue(
            folder,
            products=products,
            held_out=held_out,
            seed=seed,
            held_out_only=held_out_only,
            processes=cores(),
            progress=True,
        )
    except OSError as error:
        raise CatalogueError(
            f"the demo catalogue cannot be written into {folder} ({error.strerror or error}): "
            "make room, or name another folder"
        ) from error
    drawn = "" if held_out_only else f"{products:,} products and "
    note(f"wrote {drawn}{held_out:,} held out into {folder}")


@app.command()
def check(
    feed: options.Feed,
    images: options.Images = None,
    text: options.Text = None,
    id_column: options.IdColumn = "id",
    image_column: options.ImageColumn = "image",
    title_column: options.TitleColumn = "title",
    description_column: options.DescriptionColumn = "description",
    separator: options.Separator = "|",
    list_column: options.ListColumn = None,
    max_bad: options.MaxBad = 0.05,
    report: Annotated[
        Path | None, typer.Option(help="Write the bad rows here: .csv, or else JSON lines.")
    ] = None,
) -> None:
    """Read a feed, decode every picture, and say what is wrong with it.

    \b
    Example:
      fashionbert catalogue check feed.csv --images pictures/ --report bad.csv
    """
    from model.catalogue import read_catalogue

    columns = options.columns(
        id_column, image_column, title_column, description_column, separator, list_column
    )
    with read_catalogue(
        feed,
        images=images,
        text=text,
        columns=columns,
        max_bad=max_bad,
        report_path=report,
        progress=True,
    ) as catalogue:
        console = out()
        console.print(plain(catalogue.report.summary()), soft_wrap=True)
        first = catalogue.products[0]
        for line in options.about_columns(catalogue):
            console.print(plain(line), soft_wrap=True)
        console.print(plain(f"the first product, {first.id}: {first.text}"), soft_wrap=True)
        if report is not None:
            note(f"the bad rows are in {report}")
