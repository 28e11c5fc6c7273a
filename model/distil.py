"""Distillation: a trained network, the teacher, scores the pairs that another one learns from.

What is taught is the score that the teacher is served with. Of a network that stacks recall and
alignment on its match logit that is its best ranker, and its weights were fitted on products that
it had not seen, under a softmax over a query's candidates (`model.calibration`): so the softmax of
its scores, at temperature 1, is what it believes of a list, where the match logit alone would pass
on what it knows by heart. The student is taught in its bare match logit, as in all its training.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.checkpoint import load_checkpoint
from model.dataset import Batch
from model.errors import TrainingError
from model.network import FashionBertModel

#: What must be equal for the teacher to read the pictures of a batch, by what the batch holds.
_PICTURE_FIELDS = {
    "pixels": ("image_size",),
    "maps": ("patches", "image_size", "cnn_image_size", "freeze_cnn", "frozen_cnn_stages"),
    "features": ("patches", "image_size", "cnn_image_size", "freeze_cnn", "patch_grid"),
}


class Teacher:
    """A frozen network in evaluation mode.

    No `nn.Module`, so that the module that holds it does not register it: neither the optimizer,
    nor the processes' gradients, nor a checkpoint shall know of its weights.

    Args:
        network: is changed: it learns no more, and loses a recall head that no pair's score needs.
    """

    def __init__(self, network: FashionBertModel) -> None:
        network.eval()  # type: ignore[no-untyped-call]
        network.requires_grad_(False)
        if not network.config.stack_recall:
            network.recall_head = None  # with k = 0 it has all layers run once more a side
        self.network = network

    def scores(self, batch: Batch, text_rows: Tensor, image_rows: Tensor) -> Tensor:
        """The served scores of some pairs of a batch, float32 [N], without gradient.

        Args:
            batch: B products; each side of them is encoded once.
            text_rows: int64 [N], the text of each pair.
            image_rows: int64 [N], its picture.
        """
        network = self.network
        with torch.no_grad():
            texts, _ = network.encode_text(batch.input_ids, batch.attention_mask)
            images, _ = network.encode_image(**batch.images)
            return network.match(
                texts.index_select(0, text_rows),
                batch.attention_mask.index_select(0, text_rows),
                images.index_select(0, image_rows),
            )


def load_teacher(
    folder: Path,
    student: FashionBertModel,
    tokenizer: Path,
    *,
    maps: bool = False,
    device: torch.device | None = None,
) -> Teacher:
    """Load a checkpoint as the teacher of a network that reads the same words and pictures.

    Depth, width and `joint_from` may differ. Where the student's batches hold pixels, so may all
    of the patch network; where they hold what a frozen one made of them, that part is shared.

    Args:
        folder: a run's best/.
        student: the network to be trained, on the CPU.
        tokenizer: the student's `tokenizer.json`.
        maps: its batches hold maps of the CNN's frozen stages, if not features.
        device: where to put the teacher.

    Raises:
        TrainingError: it is no checkpoint, or reads something else than the student.
    """
    network = load_checkpoint(folder)
    _check_words(folder, network, student, tokenizer)
    _check_pictures(folder, network, student, maps)
    patch_network: Any = network.patch_network  # torch's stubs do not know memory_format here
    patch_network.to(memory_format=torch.channels_last)  # as `prepare_inputs` does: it is faster
    return Teacher(network.to(device) if device is not None else network)  # type: ignore[arg-type]


def _check_words(
    folder: Path, teacher: FashionBertModel, student: FashionBertModel, tokenizer: Path
) -> None:
    # Parsed: the same tokens may be spelled by another version of the library.
    theirs, ours = (
        Tokenizer.from_file(str(path)).to_str() for path in (folder / "tokenizer.json", tokenizer)
    )
    sizes = [network.config.vocab_size for network in (teacher, student)]
    if theirs != ours or sizes[0] != sizes[1]:
        raise TrainingError(
            f"the teacher {folder} reads other tokens than this run (vocab_size {sizes[0]} and "
            f"{sizes[1]}): give a teacher trained from the same text backbone, or from the same "
            "checkpoint"
        )
    lengths = [network.config.max_text_tokens for network in (teacher, student)]
    if lengths[0] < lengths[1]:
        raise TrainingError(
            f"the teacher {folder} reads {lengths[0]} tokens of a text, this run {lengths[1]} "
            "(max_text_tokens): give a teacher that reads as many"
        )


def _check_pictures(
    folder: Path, teacher: FashionBertModel, student: FashionBertModel, maps: bool
) -> None:
    kind = "pixels"
    if student.config.freeze_cnn:
        kind = "features"
    elif maps:
        kind = "maps"
    differing = [
        f"{name} {getattr(teacher.config, name)} and {getattr(student.config, name)}"
        for name in _PICTURE_FIELDS[kind]
        if getattr(teacher.config, name) != getattr(student.config, name)
    ]
    if not differing and kind != "pixels":
        differing = [f"the weights {name}" for name in _other_weights(teacher, student)][:1]
    if not differing:
        return
    advice = "give a teacher trained with this run's"
    if kind != "pixels":
        advice += (
            ", or train this run on pixels (--train-cnn --no-keep-maps), where each has a patch "
            "network of its own"
        )
    raise TrainingError(
        f"the teacher {folder} cannot read this run's pictures, which are given as {kind}: of the "
        f"two differ {', '.join(differing)}; {advice}"
    )


def _other_weights(teacher: FashionBertModel, student: FashionBertModel) -> Iterator[str]:
    """The names of the student's frozen patch weights that the teacher has not, or others."""
    trained = {
        name for name, value in student.patch_network.named_parameters() if value.requires_grad
    }
    if student.config.freeze_cnn:
        trained = set()  # of a patch network without a CNN too: its features are computed once
    theirs = teacher.patch_network.state_dict()
    for name, value in student.patch_network.state_dict().items():
        if name not in trained and not (name in theirs and torch.equal(value, theirs[name])):
            yield f"patch_network.{name}"
