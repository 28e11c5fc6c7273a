"""A checkpoint becomes a bundle: three ONNX graphs, checked against torch before they are kept."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.bundle import Bundle, new_folder, write_manifest
from model.errors import BundleError
from model.graphs import GRAPHS
from model.network import FashionBertModel
from model.states import quantise

OPSET = 18
#: Largest difference between torch and ONNX Runtime on states, embeddings and logits.
TOLERANCE = 1e-4


class _Graph(nn.Module):
    """One of the three methods as a module; in evaluation mode, as the model it wraps."""

    def __init__(self, model: FashionBertModel) -> None:
        super().__init__()
        self.model = model
        self.eval()


class _TextEncoder(_Graph):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        states, embedding = self.model.encode_text(input_ids, attention_mask)
        if self.model.config.joint_from == 0 and embedding is None:
            # Nothing attends yet: without this the exporter would leave the mask's input out.
            states = states + 0 * attention_mask.unsqueeze(-1)
        return _drop_none((states, embedding))


class _ImageEncoder(_Graph):
    def forward(self, pixels: Tensor) -> Any:
        return _drop_none(self.model.encode_image(pixels))


class _Matcher(_Graph):
    """De-quantises both sides and matches; one of them may have batch 1."""

    def forward(
        self, text_states: Tensor, text_scales: Tensor, image_states: Tensor, image_scales: Tensor
    ) -> Tensor:
        texts = text_states.float() * text_scales.unsqueeze(-1)
        images = image_states.float() * image_scales.unsqueeze(-1)
        return self.model.match(texts, (text_scales > 0).float(), images)


def _drop_none(outputs: tuple[Tensor, Tensor | None]) -> Any:
    states, embedding = outputs
    return states if embedding is None else (states, embedding)


@contextmanager
def _as_bundle_error(graph: str) -> Iterator[None]:
    """Turn whatever a graph's export or run raises into a `BundleError` of one line."""
    try:
        yield
    except (BundleError, OSError):  # a full disk is told by `new_folder`
        raise
    except Exception as error:  # torch's, onnx's and ONNX Runtime's classes share no other base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        todo = "train with another --cnn"
        if graph != "image_encoder":
            todo = "try another version of torch or ONNX Runtime"
        raise BundleError(f"{graph}.onnx cannot be exported ({reason}): {todo}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing on standard output, where torch's C++ prints all of a graph that it cannot export."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _export_graph(
    module: nn.Module,
    args: tuple[Tensor, ...],
    path: Path,
    inputs: Mapping[str, Mapping[int, str]],
    outputs: Mapping[str, Mapping[int, str]],
) -> None:
    with _as_bundle_error(path.stem), warnings.catch_warnings(), _silence():
        # The tracing exporter is the one that keeps two independent batch sizes (torch.export
        # insists that broadcast dimensions are equal); its deprecation and tracing notes are known.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            args,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={**inputs, **outputs},
            opset_version=OPSET,
            dynamo=False,
        )
        onnx.checker.check_model(str(path))


def export_bundle(
    model: FashionBertModel,
    tokenizer: Path,
    folder: Path,
    *,
    calibration: tuple[float, float] = (1.0, 0.0),
    text_template: str | None = None,
    metrics: dict[str, Any] | None = None,
) -> tuple[Bundle, float]:
    """Write a model as a bundle, if ONNX Runtime computes what torch does.

    Args:
        model: any FashionBERT.
        tokenizer: its `tokenizer.json`.
        folder: must not exist, or hold an older bundle, which is replaced.
        calibration: (slope, intercept) of the match probability.
        text_template: what the model was trained on.
        metrics: kept in the manifest.

    Returns:
        The bundle, and the largest difference that the parity check saw.

    Raises:
        BundleError: a graph cannot be exported or fails the parity check, the folder holds
            something else, or it cannot be written. Nothing is written then, and what stood there
            stands.
    """
    nn.Module.to(model, "cpu", torch.float32)
    nn.Module.eval(model)
    with new_folder(folder) as part:
        _write_graphs(model, part)
        shutil.copyfile(tokenizer, part / "tokenizer.json")
        difference = check_parity(model, part)
        config = model.config
        write_manifest(
            part,
            hidden_size=config.hidden_size,
            patches=config.num_patches,
            recall_size=config.recall_size,
            image_size=config.image_size,
            max_text_tokens=config.max_text_tokens,
            joint_from=config.joint_from,
            precision="fp32",
            calibration=calibration,
            text_template=text_template,
            config=config.to_diff_dict(),
            metrics=metrics or {},
        )
    return Bundle.open(folder), difference


def _write_graphs(model: FashionBertModel, folder: Path) -> None:
    config = model.config
    encoded: dict[str, dict[int, str]] = {"states": {0: "batch", 1: "length"}}
    if config.recall_size:
        encoded["embedding"] = {0: "batch"}
    tokens = torch.ones(2, 5, dtype=torch.int64)
    with torch.inference_mode():
        _export_graph(
            _TextEncoder(model),
            (tokens, tokens),
            folder / "text_encoder.onnx",
            {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")},
            encoded,
        )
        _write_image_encoder(model, folder)
        _export_graph(
            _Matcher(model),
            (
                torch.ones(2, 5, config.hidden_size, dtype=torch.int8),
                torch.ones(2, 5),
                torch.ones(2, config.num_patches, config.hidden_size, dtype=torch.int8),
                torch.ones(2, config.num_patches),
            ),
            folder / "matcher.onnx",
            {
                "text_states": {0: "texts", 1: "length"},
                "text_scales": {0: "texts", 1: "length"},
                "image_states": {0: "images"},
                "image_scales": {0: "images"},
            },
            {"logit": {0: "pairs"}},
        )


def _write_image_encoder(model: FashionBertModel, folder: Path) -> None:
    size, batch = model.config.image_size, {0: "batch"}
    outputs = ("states", "embedding") if model.config.recall_size else ("states",)
    _export_graph(
        _ImageEncoder(model),
        (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
        folder / "image_encoder.onnx",
        {"pixels": batch},
        dict.fromkeys(outputs, batch),
    )


def try_image_encoder(model: FashionBertModel) -> None:
    """Export the image encoder and run it, to know before a training whether its CNN can be served.

    Args:
        model: on the CPU; it is left as it is.

    Raises:
        BundleError: as `export_bundle` would, of this graph.
    """
    training = model.training
    size = model.config.image_size
    try:
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            _write_image_encoder(model, Path(folder))
            session = _session(Path(folder), "image_encoder")
            for batch in (1, 3):
                pixels = torch.full((batch, size, size, 3), 128, dtype=torch.uint8)
                seen = _ImageEncoder(model)(pixels)
                _difference(session, "image_encoder", f"batch {batch}", {"pixels": pixels}, seen)
    finally:
        nn.Module.train(model, training)


def _session(folder: Path, graph: str) -> ort.InferenceSession:
    with _as_bundle_error(graph):
        return ort.InferenceSession(
            str(folder / f"{graph}.onnx"), providers=["CPUExecutionProvider"]
        )


def _difference(
    session: ort.InferenceSession,
    graph: str,
    shapes: str,
    feeds: Mapping[str, Tensor | NDArray[Any]],
    expected: Any,
) -> float:
    """The largest absolute difference of what a graph computes to what torch does.

    Raises:
        BundleError: it is more than `TOLERANCE`, or the graph cannot be run.
    """
    with _as_bundle_error(graph):
        found = session.run(None, {name: np.asarray(value) for name, value in feeds.items()})
    worst = 0.0
    wanted = expected if isinstance(expected, tuple) else (expected,)
    for ours, theirs in zip(found, wanted, strict=True):
        difference = float(np.abs(ours - theirs.numpy()).max())
        if not difference <= TOLERANCE:  # also refuses NaN
            raise BundleError(
                f"the exported {graph}.onnx differs from torch by {difference:.2e} at {shapes} "
                f"(at most {TOLERANCE:.0e} is allowed): the export was not written"
            )
        worst = max(worst, difference)
    return worst


def check_parity(model: FashionBertModel, folder: Path) -> float:
    """Run torch and ONNX Runtime on the same inputs, for several batch sizes and text lengths.

    Args:
        model: in evaluation mode, on the CPU.
        folder: where the three graphs lie.

    Returns:
        The largest absolute difference seen, at most `TOLERANCE`.

    Raises:
        BundleError: a difference is larger; it names the graph and the shapes. Or ONNX Runtime
            cannot run a graph.
    """
    sessions = {name: _session(folder, name) for name in GRAPHS}
    config = model.config
    rng = np.random.default_rng(0)
    worst = 0.0

    def compare(graph: str, shapes: str, feeds: dict[str, NDArray[Any]], expected: Any) -> None:
        nonlocal worst
        worst = max(worst, _difference(sessions[graph], graph, shapes, feeds, expected))

    longest = config.max_text_tokens
    shapes = [(1, 3), (1, longest), (3, longest // 2), (4, 7)]
    with torch.inference_mode():
        for batch, length in shapes:
            ids = rng.integers(1, config.vocab_size, (batch, length))
            mask = np.ones_like(ids)
            mask[batch // 2, max(2, length - 2) :] = 0
            expected = _TextEncoder(model)(torch.from_numpy(ids), torch.from_numpy(mask))
            compare(
                "text_encoder",
                f"batch {batch}, length {length}",
                {"input_ids": ids, "attention_mask": mask},
                expected,
            )
            size = config.image_size
            pixels = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
            seen = _ImageEncoder(model)(torch.from_numpy(pixels))
            compare("image_encoder", f"batch {batch}", {"pixels": pixels}, seen)
            texts = quantise(_first(expected).numpy(), mask)
            images = quantise(_first(seen).numpy())
            for text_rows, image_rows in ((batch, batch), (1, batch), (batch, 1)):
                feeds: dict[str, NDArray[Any]] = {
                    "text_states": texts.values[:text_rows],
                    "text_scales": texts.scales[:text_rows],
                    "image_states": images.values[:image_rows],
                    "image_scales": images.scales[:image_rows],
                }
                logits = _Matcher(model)(*(torch.from_numpy(value) for value in feeds.values()))
                compare("matcher", f"{text_rows} texts × {image_rows} images", feeds, logits)
    return worst


def _first(outputs: Any) -> Tensor:
    states: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    return states
