"""Training examples: one product, one of its views, in batches hard enough to learn from."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.augmentation import AS_THEY_ARE, Augmentation, augmented
from model.evaluate import first_images, groups_of
from model.inputs import ImageInputs
from model.masking import PATCH_SHARE, Masking, mask_patches
from model.preprocess import TextTokenizer, TokenBatch
from model.product import Catalogue
from model.ranking import number_by_value

#: Batches of the whole catalogue that are sorted by the length of their texts.
_LIKE_LENGTH = 16
#: Batches are padded to multiples of so many tokens, as each new shape of a step makes the process
#: larger for good: kernels are compiled for it and kept, and blocks that fitted others are not used
#: again (docs/EXPERIMENTS.md).
_PADDED_TO = 16

#: What a mirror image would make untrue.
_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Batch:
    """B products of one step.

    `images` is {"pixels": uint8 [B, S, S, 3]}, {"maps": float32 [B, h, w, C]} or
    {"features": float32 [B, P, F]};
    `text_numbers` and `title_numbers` int64 [B] are equal where the products' texts and titles
    are, as the network reads them; `titled` bool [B] says which products are shown by their title
    only.

    Where words are hidden: `masked_ids` int64 [B, T] is the text without them, and
    `masked_tokens` bool [B, T] says where they were. Where patches are: `masked_patches`
    bool [B, P].
    """

    input_ids: Tensor
    attention_mask: Tensor
    images: dict[str, Tensor]
    text_numbers: Tensor
    title_numbers: Tensor
    titled: Tensor
    masked_ids: Tensor | None = None
    masked_tokens: Tensor | None = None
    masked_patches: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            {name: value.to(device) for name, value in self.images.items()},
            self.text_numbers.to(device),
            self.title_numbers.to(device),
            self.titled.to(device),
            *(
                None if value is None else value.to(device)
                for value in (self.masked_ids, self.masked_tokens, self.masked_patches)
            ),
        )

    def rows(self, rows: Tensor) -> Batch:
        """Some of the products, without their pictures: int64 [R]."""

        def chosen(values: Tensor) -> Tensor:
            return values.index_select(0, rows)

        return Batch(
            chosen(self.input_ids),
            chosen(self.attention_mask),
            {},
            chosen(self.text_numbers),
            chosen(self.title_numbers),
            chosen(self.titled),
            *(
                None if value is None else chosen(value)
                for value in (self.masked_ids, self.masked_tokens, self.masked_patches)
            ),
        )

    def same(self, gather: Callable[[Tensor], Tensor]) -> Tensor:
        """Which pairs are not each other's negatives: bool [B, W · B].

        Those with the same text; and those with the same title, where one is shown by it alone.

        Args:
            gather: joins the rows of all W processes.
        """
        texts, titles, titled = (
            (own[:, None], gather(own)[None, :])
            for own in (self.text_numbers, self.title_numbers, self.titled)
        )
        return (texts[0] == texts[1]) | ((titles[0] == titles[1]) & (titled[0] | titled[1]))


def number_by_tokens(batch: TokenBatch) -> NDArray[np.int64]:
    """Give texts that are one to the network the same number, [N].

    Such differ, say, in capitals or in what comes after `max_text_tokens`.
    """
    lengths = batch.attention_mask.sum(axis=1)
    rows = zip(batch.input_ids, lengths, strict=True)
    return number_by_value([ids[:length].tobytes() for ids, length in rows])


class TrainingSet:
    """The products of a catalogue, tokenised once, with their pictures as `ImageInputs`.

    `text_numbers` int64 [N] are equal where the texts are, to the letter: what evaluation goes by.
    A batch has others, see there. `mirrored` bool [N] says whose pictures may be shown mirrored:
    all but those of products whose text or title tells left from right.

    Args:
        catalogue: what to train on.
        inputs: its pictures, from `model.inputs.prepare_inputs`.
        tokenizer: path of a `tokenizer.json`.
        max_text_tokens: texts are cut to this.
        group_by: attribute that holds the sub-category.
        title_share: share of the products that a batch shows by their title instead of their
            text, as people search with few words; 0 to 1.
        masking: what is hidden in a batch; nothing by default.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        inputs: ImageInputs,
        tokenizer: Path,
        max_text_tokens: int,
        group_by: str | None = None,
        title_share: float = 0.0,
        masking: Masking | None = None,
    ) -> None:
        texts = [product.text for product in catalogue.products]
        titles = [product.title for product in catalogue.products]
        encoder = TextTokenizer(tokenizer, max_text_tokens)
        tokens, self.titles = encoder.encode(texts), encoder.encode(titles)
        self.token_numbers = number_by_tokens(tokens)
        self.title_numbers = number_by_tokens(self.titles)
        self.title_share = title_share
        self.input_ids = tokens.input_ids
        self.attention_mask = tokens.attention_mask
        self.lengths = tokens.attention_mask.sum(axis=1)
        self.text_numbers = number_by_value(texts)
        self.mirrored = np.array(
            [
                not _SIDES.search(f"{text}\n{title}")
                for text, title in zip(texts, titles, strict=True)
            ],
            dtype=np.bool_,
        )
        self.groups = groups_of(catalogue, group_by)
        self.first_image = first_images(catalogue)
        self.inputs = inputs
        self.masking = masking or Masking()

    def __len__(self) -> int:
        return len(self.text_numbers)

    @property
    def has_several_views(self) -> bool:
        """Whether a product has more than one picture."""
        return int(self.first_image[-1]) > len(self)

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

        The other batches are drawn over the whole catalogue, with texts of like length together,
        so that little of a batch is padding.
        """
        rng = np.random.default_rng([seed, epoch])
        steps = len(self) // batch_size
        order = rng.permutation(len(self))[: steps * batch_size]  # any may be left out
        cut = round(same_group * len(order))
        grouped, mixed = order[:cut], order[cut:]
        # Whole groups after one another, in random order: a stable sort keeps the shuffle inside.
        keys = rng.permutation(int(self.groups.max(initial=0)) + 1)
        grouped = grouped[np.argsort(keys[self.groups[grouped]], kind="stable")]
        for start in range(0, len(mixed), _LIKE_LENGTH * batch_size):
            part = slice(start, start + _LIKE_LENGTH * batch_size)
            mixed[part] = mixed[part][np.argsort(self.lengths[mixed[part]], kind="stable")]
        order = np.concatenate([grouped, mixed])
        batches = order.reshape(steps, batch_size)
        return rng.permutation(batches).astype(np.int64)

    def batch(
        self,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        augmentation: Augmentation = AS_THEY_ARE,
    ) -> Batch:
        """One step's products, each by a random view, padded to the longest text, and then some."""
        texts = self.batch_texts(rows, rng)
        views = self.first_image[rows + 1] - self.first_image[rows]
        pictures = self.first_image[rows] + rng.integers(0, views)
        mirrored = None
        if augmentation.mirror and self.inputs.are_maps:
            mirrored = (rng.random(len(rows)) < 0.5) & self.mirrored[rows]
        images = self.inputs.batch(pictures, mirrored)
        if augmentation != AS_THEY_ARE and "pixels" in images:
            shown = augmented(images["pixels"].numpy(), rng, augmentation, self.mirrored[rows])
            images = {"pixels": torch.from_numpy(shown)}
        ids, mask, titled = (torch.from_numpy(values) for values in texts)
        # Drawn last, and only if wanted: what comes before is then the same without them.
        masked_ids = masked_tokens = masked_patches = None
        if self.masking.words is not None:
            hidden, tokens = self.masking.words.mask(texts[0], texts[1], rng)
            masked_ids, masked_tokens = torch.from_numpy(hidden), torch.from_numpy(tokens)
        if self.masking.patches:
            patches = mask_patches(len(rows), self.masking.patches, PATCH_SHARE, rng)
            masked_patches = torch.from_numpy(patches)
        return Batch(
            ids,
            mask,
            images,
            torch.from_numpy(self.token_numbers[rows]),
            torch.from_numpy(self.title_numbers[rows]),
            titled,
            masked_ids,
            masked_tokens,
            masked_patches,
        )

    def batch_texts(
        self, rows: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """Token ids and mask [B, T], and which rows [B] are titles."""
        titled = np.zeros(len(rows), dtype=np.bool_)
        if self.title_share:  # nothing is drawn otherwise
            titled = rng.random(len(rows)) < self.title_share
        width = max(self.input_ids.shape[1], self.titles.input_ids.shape[1])
        columns = []
        for texts, titles in (
            (self.input_ids, self.titles.input_ids),
            (self.attention_mask, self.titles.attention_mask),
        ):
            both = np.zeros((len(rows), width), dtype=np.int64)
            both[:, : texts.shape[1]] = texts[rows]
            both[titled] = 0
            both[titled, : titles.shape[1]] = titles[rows[titled]]
            columns.append(both)
        longest = int(columns[1].sum(axis=1).max())
        padded = min(width, math.ceil(longest / _PADDED_TO) * _PADDED_TO)
        return columns[0][:, :padded], columns[1][:, :padded], titled

    def batches(
        self,
        epoch: int,
        *,
        batch_size: int,
        same_group: float,
        seed: int,
        augmentation: Augmentation = AS_THEY_ARE,
        start: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> Iterator[Batch]:
        """This process's part of each batch of an epoch, from step `start` on."""
        order = self.epoch_order(epoch, batch_size * processes, same_group, seed)
        for step in range(start, len(order)):
            rng = np.random.default_rng([seed, epoch, step, process])
            rows = order[step, process * batch_size : (process + 1) * batch_size]
            yield self.batch(rows, rng, augmentation)
