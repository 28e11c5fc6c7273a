"""The commands of `fashionbert`, each a module beside this one.

What is heavy (ONNX Runtime, FAISS, torch) is imported inside the commands, so that `--help` is
instant and serving never sees torch.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from model.errors import FashionBertError
from service.cli import card, catalogue, demo, evaluate, export, index, key, search, serve, train
from service.version import installed_version

#: Panel of the help, name, and what runs, in the order of the help.
COMMANDS: tuple[tuple[str, str, typer.Typer | Callable[..., None]], ...] = (
    ("Start here", "demo", demo.demo),
    ("Data", "catalogue", catalogue.app),
    ("Model", "train", train.train),
    ("Model", "evaluate", evaluate.evaluate),
    ("Model", "export", export.export),
    ("Model", "card", card.card),
    ("Search", "index", index.app),
    ("Search", "search", search.search),
    ("Search", "serve", serve.serve),
    ("Search", "key", key.app),
)


class _Contents(TyperGroup):
    """Lists commands in the order of `COMMANDS`; Typer alone puts groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for _, name, _ in COMMANDS]


app = typer.Typer(
    cls=_Contents,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fashionbert {installed_version()}")
        raise typer.Exit


@app.callback()
def options_of_all(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Cross-modal search of a fashion catalogue: train, index, search, serve."""


for _panel, _name, _command in COMMANDS:
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name, rich_help_panel=_panel)
    else:
        app.command(_name, rich_help_panel=_panel)(_command)


def main() -> None:
    """Run the command line; a user's mistake or a full disk is one line on standard error and exit
    code 2."""
    try:
        app()
    except FashionBertError as error:
        _tell(str(error))
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        # Standard output may be a file there too.
        where = "" if error.filename is None else f"{error.filename}: "
        _tell(f"{where}{error.strerror}, so what was to be written is not whole: make room")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _tell(error: str) -> None:
    message = " ".join("".join(c if c.isprintable() else " " for c in error).split())
    Console(stderr=True, soft_wrap=True).print(
        f"error: {message}", style="red", markup=False, highlight=False
    )
