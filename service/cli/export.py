"""`fashionbert export`: a checkpoint becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.cli import options
from service.cli.output import note


def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="A run's best/ folder, or another checkpoint.")
    ],
    bundle: Annotated[Path, typer.Option("--out", help="Folder of the bundle to write.")],
) -> None:
    """Export a checkpoint to ONNX; refused where ONNX Runtime computes something else than torch.

    \b
    Example:
      fashionbert export runs/shop/best --out runs/shop/bundle
    """
    options.require_training()
    from model.checkpoint import export_checkpoint

    written, difference = export_checkpoint(checkpoint, bundle)
    note(
        f"model {written.model_id}, fp32, in {bundle}: at most {difference:.1e} away from torch "
        "on states, embeddings and logits"
    )
