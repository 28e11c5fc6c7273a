"""Training examples: one product, one of its views, in batches hard enough to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.catalogue import Catalogue
from model.evaluate import first_images, groups_of
from model.inputs import ImageInputs
from model.preprocess import TextTokenizer
from model.ranking import number_by_value


@dataclass(frozen=True, slots=True)
class Batch:
    """B products of one step.

    `images` is {"pixels": uint8 [B, S, S, 3]} or {"features": float32 [B, P, F]};
    `text_numbers` int64 [B] are equal where the texts are.
    """

    input_ids: Tensor
    attention_mask: Tensor
    images: dict[str, Tensor]
    text_numbers: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            {name: value.to(device) for name, value in self.images.items()},
            self.text_numbers.to(device),
        )


class TrainingSet:
    """The products of a catalogue, tokenised once, with their pictures as `ImageInputs`.

    Args:
        catalogue: what to train on.
        inputs: its pictures, from `model.inputs.prepare_inputs`.
        tokenizer: path of a `tokenizer.json`.
        max_text_tokens: texts are cut to this.
        group_by: attribute that holds the sub-category.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        inputs: ImageInputs,
        tokenizer: Path,
        max_text_tokens: int,
        group_by: str | None = None,
    ) -> None:
        texts = [product.text for product in catalogue.products]
        tokens = TextTokenizer(tokenizer, max_text_tokens).encode(texts)
        self.input_ids = tokens.input_ids
        self.attention_mask = tokens.attention_mask
        self.lengths = tokens.attention_mask.sum(axis=1)
        self.text_numbers = number_by_value(texts)
        self.groups = groups_of(catalogue, group_by)
        self.first_image = first_images(catalogue)
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.text_numbers)

    def epoch_order(
        self, epoch: int, batch_size: int, same_group: float, seed: int
    ) -> NDArray[np.int64]:
        """Rows of an epoch's whole batches, [steps, batch_size]; a pure function of its arguments.

        Args:
            epoch: from 0.
            batch_size: of all processes together.
            same_group: share of the products that come in batches of one sub-category, which
                makes every other product of the batch a hard negative for the recall head.
            seed: of the training.
        """
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(self))
        cut = round(same_group * len(order))
        grouped, mixed = order[:cut], order[cut:]
        # Whole groups after one another, in random order: a stable sort keeps the shuffle inside.
        keys = rng.permutation(int(self.groups.max(initial=0)) + 1)
        grouped = grouped[np.argsort(keys[self.groups[grouped]], kind="stable")]
        order = np.concatenate([grouped, mixed])
        steps = len(order) // batch_size
        batches = order[len(order) - steps * batch_size :].reshape(steps, batch_size)
        return rng.permutation(batches).astype(np.int64)

    def batch(self, rows: NDArray[np.int64], rng: np.random.Generator, augment: bool) -> Batch:
        """One step's products, each by a random view, padded to the longest text."""
        longest = int(self.lengths[rows].max())
        views = self.first_image[rows + 1] - self.first_image[rows]
        images = self.inputs.batch(self.first_image[rows] + rng.integers(0, views))
        if augment and "pixels" in images:
            images = {"pixels": torch.from_numpy(augmented(images["pixels"].numpy(), rng))}
        return Batch(
            torch.from_numpy(self.input_ids[rows, :longest]),
            torch.from_numpy(self.attention_mask[rows, :longest]),
            images,
            torch.from_numpy(self.text_numbers[rows]),
        )

    def batches(
        self,
        epoch: int,
        *,
        batch_size: int,
        same_group: float,
        seed: int,
        augment: bool,
        start: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> Iterator[Batch]:
        """This process's part of each batch of an epoch, from step `start` on."""
        order = self.epoch_order(epoch, batch_size * processes, same_group, seed)
        for step in range(start, len(order)):
            rng = np.random.default_rng([seed, epoch, step, process])
            rows = order[step, process * batch_size : (process + 1) * batch_size]
            yield self.batch(rows, rng, augment)


def augmented(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Mirror and shift pictures at random; colours stay, as the texts name them.

    Args:
        pixels: uint8 [B, S, S, 3].
        rng: of this batch.
    """
    size = pixels.shape[1]
    reach = size // 16
    result: NDArray[Any] = np.full_like(pixels, 255)
    for row, picture in enumerate(pixels):
        seen = picture[:, ::-1] if rng.random() < 0.5 else picture
        down, right = (int(shift) for shift in rng.integers(-reach, reach + 1, 2))
        result[row, max(0, down) : size + min(0, down), max(0, right) : size + min(0, right)] = (
            seen[max(0, -down) : size - max(0, down), max(0, -right) : size - max(0, right)]
        )
    return result
