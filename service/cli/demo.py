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

from model.card import CARD, FIGURES, WAYS
from model.errors import FashionBertError, SnapshotError
from model.pretrained import pretrained
from service.cli import options

#: What `demo --train` promises on products that training never saw.
TARGET = 80.0
TEXT = "{title}. {description}"


def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where all of it goes.")] = Path("demo"),
    train: Annotated[
        bool, typer.Option("--train", help="Train a model first; needs the extra `train`.")
    ] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="A model to use instead of the one that comes along.")
    ] = None,
    products: Annotated[int, typer.Option(help="Products to train on.", min=2)] = 2400,
    held_out: Annotated[int, typer.Option(help="Products to index and search.", min=2)] = 400,
    epochs: Annotated[float, typer.Option(help="Passes over the products.", min=0)] = 10,
    port: Annotated[int, typer.Option(help="Port of the page.", envvar="FASHIONBERT_PORT")] = 8080,
    serve: Annotated[
        bool, typer.Option(help="Serve at the end; --no-serve stops before that.")
    ] = True,
) -> None:
    """Draw a catalogue, index it with the model that comes along and serve it, within a minute.

    With --train it draws more products, trains a small model on them from nothing, exports and
    evaluates it, and serves that one, in a few minutes. Each step is one of the other commands,
    shown as it runs; what is done already is kept, so a second start takes seconds, and an
    interrupted one goes on.

    \b
    Examples:
      fashionbert demo --out demo/
      fashionbert demo --train
    """
    if train and bundle is not None:
        raise FashionBertError("--train makes a model of its own: leave --bundle out, or --train")
    unseen, snapshots = folder / "catalogue" / "val.csv", folder / "snapshots"
    counts = "--products", products, "--held-out", held_out
    if train:
        options.require_training()
        model = _train(folder, counts, epochs)
    else:
        model = bundle or pretrained()
        if not unseen.exists():  # written last, so it stands for the whole catalogue
            _run("catalogue", "demo", folder / "catalogue", *counts, "--held-out-only")
    model_id = _model_id(model)
    if not _indexed(snapshots, model_id):
        _run("index", "build", unseen, "--bundle", model, "--text", TEXT, "--out", snapshots)
    if train:
        _evaluate(unseen, model, model_id, folder / "figures.json")
    else:
        _released(model)
    variables = {"FASHIONBERT_BUNDLE": model, "FASHIONBERT_SNAPSHOTS": snapshots}
    if not train and bundle is None:
        del variables["FASHIONBERT_BUNDLE"]  # the other commands take it without being told
    exported = " ".join(f"{name}={value}" for name, value in variables.items())
    _say(f"\nFor the other commands:\n  export {exported}")
    if serve:
        arguments = ["serve", "--bundle", model, "--snapshots", snapshots, "--port", str(port)]
        # In place of this process, so that the service gets the signals itself.
        os.execv(sys.executable, _command(arguments))


_TRAINING = (
    "--preset", "tiny", "--text", TEXT, "--group-by", "product_type",
    "--learning-rate", "1e-3", "--title-share", "0.3", "--validate-every", "5",
)  # fmt: skip


def _train(folder: Path, counts: tuple[Any, ...], epochs: float) -> Path:
    """Draw what there is to learn from, train and export; returns the bundle."""
    catalogue, run, bundle = folder / "catalogue", folder / "run", folder / "bundle"
    feed = catalogue / "train.csv"
    if not feed.exists():  # written last, so it stands for the whole catalogue
        _run("catalogue", "demo", catalogue, *counts)
    if not _trained(run / "best"):
        # Chooses by a share of its own products, so that the held-out ones are new to all of it.
        _run("train", feed, "--out", run, "--epochs", f"{epochs:g}", *_TRAINING)
    if not (bundle / "manifest.json").exists():
        _run("export", run / "best", "--out", bundle)
    return bundle


def _trained(best: Path) -> bool:
    """Whether a run has ended: what is fitted last is in its training.json."""
    source = best / "training.json"
    return source.exists() and "calibration" in _read(source)


def _model_id(bundle: Path) -> str:
    from model.bundle import Bundle

    return Bundle.open(bundle, verify=False).model_id


def _indexed(snapshots: Path, model_id: str) -> bool:
    """Whether the current snapshot is there, and of this model."""
    from index.manifest import read_manifest
    from index.snapshot_folder import locate

    try:
        return read_manifest(locate(snapshots)).model_id == model_id
    except SnapshotError:
        return False


def _evaluate(feed: Path, bundle: Path, model_id: str, figures: Path) -> None:
    """Measure the model, and say whether it is as good as promised."""
    if not figures.exists() or _read(figures).get("model_id") != model_id:
        _run(
            "evaluate", feed, "--bundle", bundle, "--group-by", "product_type", "--json", figures
        )  # fmt: skip
    _say("")
    for way, sampled in _two_stage(_read(figures)):
        reached = sampled["rank1"] >= TARGET
        told = f"({'at least' if reached else 'BELOW'} {TARGET:.0f} % was to be reached)"
        _say(f"{way:<14} {_rank1(sampled)} {told}", style="green" if reached else "red")


def _released(bundle: Path) -> None:
    """Say what was measured when the model was released, where it carries that."""
    source = bundle / FIGURES
    if not source.exists():
        return
    _say(f"\nMeasured when this model was released ({bundle / CARD}):")
    for name, figures in _read(source)["catalogues"].items():
        for way, sampled in _two_stage(figures):
            _say(f"{name:<18} {way:<14} {_rank1(sampled)}")


def _two_stage(figures: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(shown, figures[way]["sampled"]["two_stage"]) for way, shown in WAYS.items()]


def _rank1(sampled: dict[str, Any]) -> str:
    return f"Rank@1 {sampled['rank1']:.1f} % among {sampled['candidates']} held-out products"


def _read(source: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    return read


def _say(line: str, style: str | None = None) -> None:
    Console(stderr=True, soft_wrap=True).print(line, style=style, markup=False, highlight=False)


def _command(arguments: list[Any]) -> list[str]:
    return [sys.executable, "-m", "service.cli", *(str(argument) for argument in arguments)]


def _run(*arguments: Any) -> None:
    shown = shlex.join(["fashionbert", *(str(argument) for argument in arguments)])
    _say(f"\n$ {shown}", style="bold")
    ended = subprocess.run(_command(list(arguments)), check=False)
    if ended.returncode:
        raise FashionBertError(
            f"`{shown}` ended with exit code {ended.returncode}; what is done is kept: "
            "the same command goes on from there"
        )
