"""`fashionbert card`: the model card of a bundle, from its evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from model.errors import FashionBertError
from service.cli.output import note


def card(
    evaluations: Annotated[
        list[str],
        typer.Argument(help="NAME=FILE: a catalogue, and what `evaluate --json` wrote about it."),
    ],
    bundle: Annotated[
        Path,
        typer.Option(
            help="Folder of the exported model, whose card it is.", envvar="FASHIONBERT_BUNDLE"
        ),
    ],
    reference: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE: the same of the fp32 bundle, to show what precision costs."),
    ] = None,
    notes: Annotated[
        Path | None,
        typer.Option(help="Markdown to put in: data, recipe, limits, licences."),
    ] = None,
) -> None:
    """Write a bundle's model card, README.md, and figures.json, into its folder.

    \b
    Example:
      fashionbert card shop=figures.json --bundle bundle/ --notes notes.md
    """
    from model.bundle import Bundle
    from model.card import write_card

    opened = Bundle.open(bundle)
    try:
        written = write_card(opened, _named(evaluations), _named(reference or []), notes)
    except OSError as error:
        raise FashionBertError(
            f"the model card cannot be written into {opened.path} ({error.strerror or error}): "
            "make it writable, or copy the bundle and name the copy with --bundle",
            code="card",
        ) from error
    note(f"the model card is {written}")


def _named(pairs: list[str]) -> dict[str, Path]:
    """NAME=FILE, each name once."""
    named: dict[str, Path] = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not (name and equals and file) or name in named:
            raise FashionBertError(
                f"{pair!r}: give NAME=FILE, each name once, as in shop=figures.json", code="card"
            )
        named[name] = Path(file)
    return named
