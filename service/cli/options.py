"""Options that several commands share."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from model.attributes import attribute_types
from model.errors import CatalogueError, FashionBertError
from model.product import Catalogue, ColumnMapping
from service.settings import missing

Bundle = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the exported model; by default the one that comes along.",
        envvar="FASHIONBERT_BUNDLE",
    ),
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
        help="Threads of the model; by default as many as the process may use cores.",
        envvar="FASHIONBERT_THREADS",
        min=1,
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda.", envvar="FASHIONBERT_DEVICE")]

Feed = Annotated[
    Path, typer.Argument(help="The product feed: CSV, JSONL or Parquet, or a Fashion-Gen .h5.")
]
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
    str,
    typer.Option(
        help="What stands between several pictures in one cell, and between the values of a "
        "--list-column; empty for nothing."
    ),
]
ListColumn = Annotated[
    list[str] | None,
    typer.Option(
        help="A column of several values in one cell, such as S|M|L of sizes; may be given again. "
        "Lists of JSON and Parquet are lists without it."
    ),
]
MaxBad = Annotated[
    float,
    typer.Option(help="Share of the feed that may be bad, from 0 to 1, before it is refused."),
]

Report = Annotated[
    Path | None, typer.Option(help="Write the bad rows here: .csv, or else JSON lines.")
]
GroupBy = Annotated[
    str | None,
    typer.Option(help="Column with the sub-category: negatives are drawn from the same one."),
]


def columns(
    id: str, image: str, title: str, description: str, separator: str, lists: list[str] | None
) -> ColumnMapping:
    """The six options about a feed's columns, together."""
    return ColumnMapping(
        id=id,
        image=image,
        title=title,
        description=description,
        separator=separator,
        lists=tuple(lists or ()),
    )


def about_columns(catalogue: Catalogue) -> Iterator[str]:
    """Lines on which attributes a feed has, of which types, and which of them may be mistaken."""
    types = attribute_types(product.attributes for product in catalogue.products)
    if types:
        yield f"attributes: {', '.join(f'{name} {type}' for name, type in types.items())}"
    for doubt in catalogue.report.doubts:
        yield f"warning: {doubt}"


def check_group_by(catalogue: Catalogue, column: str | None, what: str = "the feed") -> None:
    """Refuse a --group-by that no product has; `what` is what the catalogue is called.

    Raises:
        CatalogueError: it lists the columns that there are.
    """
    if column is None:
        return
    names = {name for product in catalogue.products for name in product.attributes}
    if column not in names:
        raise CatalogueError(
            f"--group-by {column}: no product of {what} has such an attribute; there are "
            f"{', '.join(sorted(names)) or 'none'}"
        )


def check_output(option: str, path: Path) -> None:
    """Refuse a file that can be seen not to be writable, before the work whose result it takes.

    Raises:
        FashionBertError: it says why.
    """
    try:
        if path.exists() and not path.is_file():
            raise FashionBertError(
                f"{option} {path} is no file, but a folder or a device: name one"
            )
        if not path.parent.is_dir():
            raise FashionBertError(f"{option} {path}: make the folder {path.parent} first")
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise unwritable(option, path, error) from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise FashionBertError(
            f"{option} {path}: nothing can be written in {path.parent}: name another place"
        )


def unwritable(option: str, path: Path, error: OSError) -> FashionBertError:
    """What to tell of a file that could not be written."""
    return FashionBertError(
        f"{option} {path} cannot be written ({error.strerror or error}): name another place"
    )


def require_training() -> None:
    """Refuse to train or export where the extra is not installed.

    Raises:
        FashionBertError: it names the package to install.
    """
    missing_modules = [
        name
        for name in ("torch", "transformers", "accelerate", "onnx", "matplotlib")
        if importlib.util.find_spec(name) is None
    ]
    if missing_modules:
        raise FashionBertError(
            f"this command needs {', '.join(missing_modules)}, which serving does not: "
            "pip install 'fashionbert[train]'"
        )


def required(snapshots: Path | None) -> Path:
    """The snapshots' folder, of commands that need no other setting.

    Raises:
        FashionBertError: neither the option nor its variable was given.
    """
    if snapshots is None:
        raise missing("snapshots")
    return snapshots
