"""An fp32 bundle in another precision: int8 for processors, fp16 for CUDA.

    fp32    what torch computes, to 1e-4; fused for processors
    int8    `model.quantise_graph`, for processors
    fp16    everything but sums, norms and heads in half precision; states int8 in, fp32 out, as in
            the others. Its matcher chooses rows of tables of states (`model.row_inputs`)

Whatever computes them, states are stored as int8 with a float32 scale, and a pair's logit comes
from those: so it is the same whether they come from a snapshot or were made a moment ago.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import ModelProto

from model.bundle import Bundle, Manifest, new_folder, write_manifest
from model.errors import BundleError
from model.fuse import fuse
from model.graphs import GRAPHS, Feeds, Graphs
from model.half import half, with_halves
from model.precision_loss import Errors, graph_errors
from model.quantise_graph import quantise_graph
from model.row_inputs import with_row_inputs
from model.samples import Samples, noise

Precision = Literal["fp32", "int8", "fp16"]

#: Least mean cosine between a precision's states or embeddings and the reference's. Far below what
#: is measured (docs/EXPERIMENTS.md): under it the graph is broken, not rounded.
LEAST_COSINE = {"int8": 0.9, "fp16": 0.999}
#: Between fp32 as exported and as fused: what the export allows against torch.
TOLERANCE = 1e-4


def convert_bundle(
    reference: Bundle,
    folder: Path,
    precision: Precision,
    *,
    calibrate: Samples | None = None,
    measure: Samples | None = None,
    figures: Callable[[Bundle], dict[str, Any]] | None = None,
) -> tuple[Bundle, Errors]:
    """Write an exported bundle as it is served.

    Args:
        reference: the fp32 bundle as `model.export` writes it.
        folder: must not exist, or hold an older bundle, which is replaced.
        precision: of the new bundle.
        calibrate: sets the ranges of int8's activations; not of the products measured on.
        measure: what errors are measured on; those of `calibrate` or else `noise` without it.
        figures: more to measure on the new bundle, kept in its manifest beside the errors.

    Raises:
        BundleError: the reference is not as exported, the new graphs compute something else, or
            the folder cannot be written. What stood there stands then.
    """
    if reference.manifest.precision != "fp32" or "precision" in reference.manifest.metrics:
        raise BundleError(
            f"{reference.path} is of {reference.manifest.precision} and made for serving: "
            "precisions are made of the checkpoint, by `fashionbert export`"
        )
    with new_folder(folder) as part:
        shutil.copyfile(reference.path / "tokenizer.json", part / "tokenizer.json")
        feeds = Graphs(reference).feeds(calibrate) if calibrate else {}
        for name in GRAPHS:
            graph = onnx.load(str(reference.path / f"{name}.onnx"))
            width = reference.manifest.hidden_size
            converted = convert_graph(graph, precision, width, feeds.get(name, []))
            onnx.checker.check_model(converted)
            onnx.save(converted, str(part / f"{name}.onnx"))
        about: dict[str, Any] = {"reference": reference.model_id}
        written = _describe(part, reference.manifest, precision, about)
        samples = measure or calibrate or noise(reference.manifest.image_size)
        errors = graph_errors(Graphs(reference), Graphs(written), samples)
        _check(errors, precision)
        if precision == "fp16":
            _check_range(Graphs(written, with_halves).beyond(Graphs(reference), samples))
        if precision == "fp32":
            _check_same(Graphs(reference).largest_difference(Graphs(written), samples))
        about["errors"] = dataclasses.asdict(errors)
        if figures is not None:
            about |= figures(written)
        _describe(part, reference.manifest, precision, about)
    return Bundle.open(folder), errors


def convert_graph(
    model: ModelProto, precision: Precision, width: int, samples: Sequence[Feeds] = ()
) -> ModelProto:
    """One exported graph in another precision.

    Args:
        model: in fp32; used up.
        precision: of the new graph.
        width: the hidden width H.
        samples: inputs of single items, to calibrate int8 on.
    """
    if precision == "fp16":
        converted = half(fuse(model, "cuda"))
        is_matcher = any(entry.name == "image_states" for entry in converted.graph.input)
        return with_row_inputs(converted) if is_matcher else converted
    fused = fuse(model, "cpu")
    return fused if precision == "fp32" else quantise_graph(fused, width, samples)


def _describe(
    folder: Path, reference: Manifest, precision: Precision, about: dict[str, Any]
) -> Bundle:
    """Write the new bundle's manifest: the reference's, but for the precision."""
    fields = {
        entry.name: getattr(reference, entry.name)
        for entry in dataclasses.fields(Manifest)
        if entry.name not in ("model_id", "files", "format", "checksum", "precision", "metrics")
    }
    metrics = {**reference.metrics, "precision": about}
    return Bundle(folder, write_manifest(folder, precision=precision, metrics=metrics, **fields))


def _check(errors: Errors, precision: Precision) -> None:
    """Refuse graphs that compute something else than the reference."""
    worst = 1 - max(errors.state_mean, errors.embedding_mean)
    if not worst >= LEAST_COSINE.get(precision, 0.0):  # also refuses NaN
        raise BundleError(
            f"in {precision} the model computes something else than in fp32 (mean cosine "
            f"{worst:.3f} on {errors.samples} products, at least {LEAST_COSINE[precision]} is "
            "expected): it was not written; calibrate on products like those it was trained on, "
            "or keep fp32"
        )


def _check_range(beyond: Sequence[str]) -> None:
    """Refuse graphs with values that fp16 does not hold, given those that have some.

    A processor computes fp16 graphs in fp32, so what they put out does not show it.
    """
    if beyond:
        raise BundleError(
            f"in fp16 some values in {' and '.join(f'{name}.onnx' for name in beyond)} are beyond "
            "65,504, which a GPU would make infinite: the bundle was not written; keep fp32"
        )


def _check_same(difference: float) -> None:
    """Refuse fused graphs whose outputs are not those of the exported ones, to rounding."""
    if not difference <= TOLERANCE:  # also refuses NaN
        raise BundleError(
            f"fused, the graphs differ by {difference:.2e} from the exported ones (at most "
            f"{TOLERANCE:.0e} is allowed): the bundle was not written"
        )
