"""A checkpoint under evaluation, through torch: any model that can be trained, exported or not."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from model.checkpoint import load_checkpoint, read_training
from model.dataset import TrainingSet
from model.errors import FashionBertError
from model.evaluate import EncodedCatalogue
from model.inputs import prepare_inputs
from model.malloc import keep_freed_memory
from model.mixed_precision import computes_bf16
from model.product import Catalogue
from model.states import QuantisedStates
from model.validate import encode_products, torch_match

#: Tokens and patches of one pass through the joint layers.
_TOKENS = 16_384


class EvaluatedCheckpoint:
    """A checkpoint for `model.evaluate.evaluate`, in the precision that validates its training:
    bf16 where the device computes in that, else fp32.

    Its heads, which rank, are in float32: see `model.heads`.

    Args:
        folder: a run's best/ folder, or another checkpoint.
        threads: of torch; its own choice by default.
        device: `cpu` or `cuda`; by default the GPU if there is one.
        cache: where the pictures' array is kept; by default in the run's cache/ beside the
            folder, and in a temporary folder if there is none.

    Attributes:
        about: what was evaluated, for JSON.
        text_template: what the model was trained on, if it says.
        has_recall: whether it has a recall head.
        fitted: whether the weights of recall and match in the served score have been fitted, as
            is done at the end of a training; before that the match logit stands alone.

    Raises:
        TrainingError: the checkpoint is missing, damaged or of another shape.
        FashionBertError: the device is not there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threads: int | None = None,
        device: str | None = None,
        cache: Path | None = None,
    ) -> None:
        chosen = _device(device)
        if chosen.type == "cpu":
            keep_freed_memory()
        if threads is not None:
            torch.set_num_threads(threads)
        self.folder = folder
        self.cache = cache
        self.network = load_checkpoint(folder)
        torch.nn.Module.to(self.network, chosen)
        torch.nn.Module.eval(self.network)
        training = read_training(folder)
        step = training.get("step")
        precision = "bf16" if computes_bf16(chosen) else "fp32"
        self.about: dict[str, Any] = {
            "checkpoint": str(folder),
            "step": step,
            "precision": precision,
        }
        self.name = f"{folder} ({'' if step is None else f'step {step:,}, '}{precision})"
        self.text_template: str | None = training.get("text_template")
        self.has_recall = self.network.config.recall_size > 0
        self.fitted = "calibration" in training or not self.network.config.stack_recall

    def encode(
        self, catalogue: Catalogue, group_by: str | None = None, progress: Progress | None = None
    ) -> EncodedCatalogue:
        """Encode a catalogue, small enough for memory.

        Raises:
            TrainingError: the pictures' array cannot be written, or the network has diverged.
        """
        beside = self.folder.resolve().parent / "cache"
        cache = self.cache or (beside if beside.is_dir() else None)
        with TemporaryDirectory(prefix="fashionbert-") as temporary:
            inputs = prepare_inputs(
                self.network, catalogue, cache or Path(temporary), progress=progress
            )
            products = TrainingSet(
                catalogue,
                inputs,
                self.folder / "tokenizer.json",
                self.network.config.max_text_tokens,
                group_by,
            )
            with torch.inference_mode():
                return encode_products(self.network, products)

    def match(self, texts: QuantisedStates, images: QuantisedStates) -> NDArray[np.float32]:
        """Match logits of pairs, as `Engine.match`; either side may have batch 1."""
        pairs = len(images) if len(texts) == 1 else len(texts)
        lengths = np.count_nonzero(texts.scales, axis=1)
        order = np.argsort(np.broadcast_to(lengths, pairs), kind="stable")
        step = max(1, _TOKENS // (int(lengths.max(initial=0)) + images.scales.shape[1]))
        logits = np.empty(pairs, dtype=np.float32)
        for start in range(0, pairs, step):
            rows = order[start : start + step]
            with torch.inference_mode():
                logits[rows] = torch_match(
                    self.network,
                    texts[rows] if len(texts) > 1 else texts,
                    images[rows] if len(images) > 1 else images,
                )
        return logits


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise FashionBertError(f"device {name!r}: choose 'cpu' or 'cuda'")
    if name == "cuda" and not torch.cuda.is_available():
        raise FashionBertError(
            "device 'cuda' was asked for, but this torch sees no GPU: look for the driver, install "
            "a torch with CUDA, or use device 'cpu'"
        )
    return torch.device(name)
