"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.settings import missing

Bundle = Annotated[
    Path | None,
    typer.Option(help="Folder of the exported model.", envvar="FASHIONBERT_BUNDLE"),
]
Snapshots = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the snapshots, the one with CURRENT in it.",
        envvar="FASHIONBERT_SNAPSHOTS",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Threads of the model; all cores by default.", envvar="FASHIONBERT_THREADS", min=1
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda.", envvar="FASHIONBERT_DEVICE")]

Feed = Annotated[Path, typer.Argument(help="The product feed: CSV, JSONL or Parquet.")]
Images = Annotated[
    Path | None,
    typer.Option(
        help="Folder or tar of the pictures. By default images.tar or images/ beside the feed."
    ),
]
Text = Annotated[
    str | None,
    typer.Option(help='What a product\'s text is made of, such as "{title}. {description}".'),
]
IdColumn = Annotated[str, typer.Option(help="The feed's column of ids.")]
ImageColumn = Annotated[str, typer.Option(help="The feed's column of picture names.")]
TitleColumn = Annotated[str, typer.Option(help="The feed's column of titles.")]
DescriptionColumn = Annotated[str, typer.Option(help="The feed's column of descriptions.")]
Separator = Annotated[
    str, typer.Option(help="What stands between several pictures in one cell; empty for nothing.")
]
MaxBad = Annotated[
    float,
    typer.Option(help="Share of the feed that may be bad, from 0 to 1, before it is refused."),
]


def required(snapshots: Path | None) -> Path:
    """The snapshots' folder, of commands that need no other setting.

    Raises:
        FashionBertError: neither the option nor its variable was given.
    """
    if snapshots is None:
        raise missing("snapshots")
    return snapshots
