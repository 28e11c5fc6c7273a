"""`fashionbert export`: a checkpoint becomes a bundle, or several of different precision."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from model.errors import BundleError, CatalogueError
from model.product import Catalogue
from service.cli import options
from service.cli.output import note

if TYPE_CHECKING:
    from model.bundle import Bundle
    from model.precision import Precision
    from model.precision_loss import Errors


class PrecisionName(StrEnum):
    """As `model.precision.Precision`, which needs onnx."""

    FP32 = "fp32"
    INT8 = "int8"
    FP16 = "fp16"


#: Products that errors are measured on; ranks are measured on all of `--measure`.
_ERROR_SAMPLES = 64


def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="A run's best/ folder, or another checkpoint.")
    ],
    bundle: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder of the bundle to write; of several precisions, a folder each in it.",
        ),
    ],
    precision: Annotated[
        list[PrecisionName] | None,
        typer.Option(
            help="fp32, int8 for processors, or fp16 for CUDA; can be repeated. By default fp32."
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Feed that int8's ranges are set on, such as the training's. Without, int8 "
            "measures them in each pass, and its convolutions stay in fp32."
        ),
    ] = None,
    measure: Annotated[
        Path | None,
        typer.Option(help="Feed of unseen products on which what a precision costs is measured."),
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
    queries: Annotated[
        int, typer.Option(help="Of --measure, each way; negatives as in `evaluate`.", min=1)
    ] = 1000,
) -> None:
    """Export a checkpoint to ONNX; refused where ONNX Runtime computes something else than torch.

    Precisions are made of the fp32 export and compared with it. The options about columns
    hold for both feeds.

    \b
    Example:
      fashionbert export runs/shop/best --out runs/shop/bundle
      fashionbert export runs/shop/best --out bundle --precision int8 \\
        --calibrate train.csv --measure val.csv --group-by category
    """
    options.require_training()
    from model.bundle import bundle_place
    from model.catalogue import read_catalogue
    from model.checkpoint import export_checkpoint, read_training
    from model.precision import convert_bundle
    from model.precision_loss import RankTrial
    from model.progress import progress_bars
    from model.samples import samples_of

    wanted = list(dict.fromkeys(precision or [PrecisionName.FP32]))
    folders = {name: bundle / name if len(wanted) > 1 else bundle for name in wanted}
    for folder in folders.values():
        bundle_place(folder)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "exported"
        try:
            reference, difference = export_checkpoint(checkpoint, place)
        except BundleError as error:
            if str(place) not in str(error):
                raise
            first = "it is made in a temporary folder first, which TMPDIR chooses"
            raise BundleError(f"{error}; {first}") from error
        if "calibration" not in read_training(checkpoint):
            note(
                f"{checkpoint} is of a training that has not ended, or had no products to choose "
                "by (--valid): the weights of recall and match in the served score, and the "
                "calibration of its probabilities, are not fitted"
            )
        if PrecisionName.FP32 in folders:
            written, _ = convert_bundle(reference, folders[PrecisionName.FP32], "fp32")
            note(
                f"{_about(written)}: at most {difference:.1e} away from torch on states, "
                "embeddings and logits"
            )
        for option, path, needs in (
            ("--calibrate", calibrate, {PrecisionName.INT8}),
            ("--measure", measure, set(PrecisionName) - {PrecisionName.FP32}),
        ):
            if path is not None and not needs & set(wanted):
                which = " or ".join(sorted(needs))
                note(f"{option} {path} is not read, as it is for --precision {which}")
        if wanted == [PrecisionName.FP32]:
            return
        columns = options.columns(
            id_column, image_column, title_column, description_column, separator, list_column
        )
        template = text if text is not None else reference.manifest.text_template
        read = partial(
            read_catalogue, images=images, text=template, columns=columns, max_bad=max_bad
        )
        size = reference.manifest.image_size
        ranges = errors = trial = None
        if calibrate is not None:
            ranges = samples_of(stack.enter_context(read(calibrate)), size)
        bars = stack.enter_context(progress_bars())
        if measure is not None:
            catalogue: Catalogue = stack.enter_context(read(measure))
            if len(catalogue) < 2:
                raise CatalogueError(
                    f"--measure {measure} has one product: there is nothing to rank it against"
                )
            options.check_group_by(catalogue, group_by)
            errors = samples_of(catalogue, size, _ERROR_SAMPLES)
            trial = RankTrial(
                reference, catalogue, group_by=group_by, queries=queries, progress=bars
            )
        for name in wanted:
            if name is PrecisionName.FP32:
                continue
            written, found = convert_bundle(
                reference,
                folders[name],
                cast("Precision", name.value),
                calibrate=ranges,
                measure=errors,
                figures=trial.loss if trial is not None else None,
            )
            _tell(written, found)


def _about(bundle: Bundle) -> str:
    return f"model {bundle.model_id}, {bundle.manifest.precision}, in {bundle.path}"


def _tell(bundle: Bundle, errors: Errors) -> None:
    """What a precision costs, in lines."""
    size = sum(path.stat().st_size for path in bundle.path.iterdir()) / 1e6
    note(
        f"{_about(bundle)}, {size:.1f} MB: against fp32, on {errors.samples} products, 1 − cosine "
        f"is {errors.state_mean:.1e} for states and {errors.embedding_mean:.1e} for embeddings on "
        f"average ({errors.state_max:.1e} and {errors.embedding_max:.1e} at most); logits are "
        f"{errors.logit_mean:.3f} away ({errors.logit_max:.3f} at most; they spread by "
        f"{errors.logit_spread:.2f})"
    )
    if bundle.manifest.precision == "fp16":
        note(
            "that is what rounding to fp16 costs, as a processor computes in fp32: "
            "`python -m benchmarks.check_gpu` compares both on a GPU"
        )
    told = bundle.manifest.metrics["precision"]
    for direction, rank1 in told.get("rank1", {}).items():
        note(
            f"Rank@1 {direction.replace('_to_', ' → ')}, {told['queries']:,} queries: "
            f"{rank1['here']:.2f}, fp32 {rank1['fp32']:.2f}, a loss of {rank1['loss']:.2f} points"
        )
