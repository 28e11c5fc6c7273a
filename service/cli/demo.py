"""`fashionbert demo`: everything from nothing, with the commands one would type."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from model.errors import FashionBertError
from service.cli import options

#: What the demo promises on products that training never saw.
TARGET = 80.0
TEXT = "{title}. {description}"


def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where all of it goes.")] = Path("demo"),
    products: Annotated[int, typer.Option(help="Products to train on.", min=2)] = 2400,
    held_out: Annotated[int, typer.Option(help="Products to index and search.", min=2)] = 400,
    epochs: Annotated[float, typer.Option(help="Passes over the products.", min=0)] = 10,
    port: Annotated[int, typer.Option(help="Port of the page.", envvar="FASHIONBERT_PORT")] = 8080,
    serve: Annotated[
        bool, typer.Option(help="Serve at the end; --no-serve stops before that.")
    ] = True,
) -> None:
    """Make a catalogue, train on it, export, index, evaluate and serve, in a few minutes.

    Each step is one of the other commands, shown as it runs; what is done already is kept, so a
    second start takes seconds, and an interrupted one goes on.

    \b
    Example:
      fashionbert demo --out demo/
    """
    options.require_training()
    catalogue, run = folder / "catalogue", folder / "run"
    bundle, snapshots, figures = folder / "bundle", folder / "snapshots", folder / "figures.json"
    train_feed, unseen = catalogue / "train.csv", catalogue / "val.csv"

    if not train_feed.exists():  # written last, so it stands for the whole catalogue
        _run("catalogue", "demo", catalogue, "--products", products, "--held-out", held_out)
    if not _trained(run / "best"):
        # Chooses by a share of its own products, so that the held-out ones are new to all of it.
        _run("train", train_feed, "--out", run, "--epochs", f"{epochs:g}", *_TRAINING)
    if not (bundle / "manifest.json").exists():
        _run("export", run / "best", "--out", bundle)
    if not (snapshots / "CURRENT").exists():
        _run("index", "build", unseen, "--bundle", bundle, "--out", snapshots)
    if not figures.exists():
        _run(
            "evaluate", unseen, "--bundle", bundle, "--group-by", "product_type",
            "--json", figures,
        )  # fmt: skip
    _report(figures)
    Console(stderr=True, soft_wrap=True).print(
        f"\nFor the other commands:\n  export FASHIONBERT_BUNDLE={bundle} "
        f"FASHIONBERT_SNAPSHOTS={snapshots}",
        markup=False,
        highlight=False,
    )
    if serve:
        arguments = ["serve", "--bundle", bundle, "--snapshots", snapshots, "--port", str(port)]
        # In place of this process, so that the service gets the signals itself.
        os.execv(sys.executable, _command(arguments))


_TRAINING = (
    "--preset", "tiny", "--text", TEXT, "--group-by", "product_type",
    "--learning-rate", "1e-3", "--title-share", "0.3", "--validate-every", "5",
)  # fmt: skip


def _trained(best: Path) -> bool:
    """Whether a run has ended: what is fitted last is in its training.json."""
    source = best / "training.json"
    return source.exists() and "calibration" in json.loads(source.read_text(encoding="utf-8"))


def _command(arguments: list[Any]) -> list[str]:
    return [sys.executable, "-m", "service.cli", *(str(argument) for argument in arguments)]


def _run(*arguments: Any) -> None:
    shown = shlex.join(["fashionbert", *(str(argument) for argument in arguments)])
    Console(stderr=True, soft_wrap=True).print(f"\n$ {shown}", style="bold", markup=False)
    ended = subprocess.run(_command(list(arguments)), check=False)
    if ended.returncode:
        raise FashionBertError(
            f"`{shown}` ended with exit code {ended.returncode}; what is done is kept: "
            "`fashionbert demo` goes on from there"
        )


def _report(figures: Path) -> None:
    measured = json.loads(figures.read_text(encoding="utf-8"))
    console = Console(stderr=True, soft_wrap=True)
    console.print()
    for direction in ("text_to_image", "image_to_text"):
        sampled = measured[direction]["sampled"]["two_stage"]
        reached = sampled["rank1"] >= TARGET
        console.print(
            f"{direction.replace('_to_', ' → '):<14} Rank@1 {sampled['rank1']:.1f} % among "
            f"{sampled['candidates']} held-out products "
            f"({'at least' if reached else 'BELOW'} {TARGET:.0f} % was to be reached)",
            style="green" if reached else "red",
            highlight=False,
        )
