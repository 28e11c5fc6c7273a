"""`fashionbert key`: API keys."""

from __future__ import annotations

from typing import Annotated

import typer

from service.cli.output import note
from service.security import new_key

app = typer.Typer(help="Make API keys.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Make API keys."""


@app.command()
def new(
    name: Annotated[str, typer.Option(help="What logs and metrics call it.")] = "key",
    scope: Annotated[
        str, typer.Option(help="search, or admin: that and changing the catalogue.")
    ] = "search",
) -> None:
    """Print a new key, and below it the line to put into the keys file.

    \b
    Example:
      fashionbert key new --name shop --scope search
    """
    secret, key = new_key(name, scope)
    note("The key, which is stored nowhere, and its line for FASHIONBERT_KEYS_FILE:")
    typer.echo(secret)
    typer.echo(key.line())
