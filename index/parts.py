"""A snapshot that is being built: its growing files, and the record of how far they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from index.manifest import Sizes
from index.states import ArrayWriter, BytesWriter, check_finite, ragged
from model.engine import EncodedImages, EncodedTexts
from model.errors import SnapshotError
from model.files import write_json


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture that could not be decoded: of which product of the catalogue, and why."""

    product: int
    image: str
    detail: str


@dataclass(slots=True)
class Progress:
    """How far a build is: all that a run which goes on must know.

    `position` counts products of the catalogue, `products` those of them that are kept; `skipped`
    the pictures that are not, of which `skipped_bytes` are written. `writes` is the last write to
    the service that the catalogue is said to have in it.
    """

    key: str
    position: int = 0
    products: int = 0
    pictures: int = 0
    text_tokens: int = 0
    image_bytes: int = 0
    truncated_texts: int = 0
    writes: int = 0
    skipped: int = 0
    skipped_bytes: int = 0

    def save(self, path: Path) -> None:
        """Write it atomically."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path, key: str) -> Progress | None:
        """What a run recorded; None if nothing of use was."""
        try:
            progress = cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        numbers = (value for name, value in asdict(progress).items() if name != "key")
        whole = all(isinstance(value, int) for value in numbers)
        return progress if whole and progress.key == key else None


class SkippedPictures:
    """The pictures that a build has left out so far, on disk, in the catalogue's order.

    Args:
        path: where they are, one JSON object a line.
        progress: how many of them an earlier run has recorded. Kept up to date.

    Raises:
        SnapshotError: the file is not what `progress` says.
    """

    def __init__(self, path: Path, progress: Progress) -> None:
        self._progress = progress
        self._path = path
        self._file = BytesWriter(path, progress.skipped_bytes)
        self.last: Skipped | None = None
        try:
            found = 0
            for each in self:
                self.last = each
                found += 1
            if found != len(self):
                raise ValueError(f"{found} pictures where {len(self)} are recorded")
        except (ValueError, TypeError) as error:
            self.close()
            raise SnapshotError(f"{path} is damaged ({error})") from error

    def add(self, skipped: Iterable[Skipped]) -> None:
        """Append some."""
        for each in skipped:
            self._file.append(json.dumps(asdict(each)).encode() + b"\n")
            self._progress.skipped += 1
            self.last = each
        self._progress.skipped_bytes = self._file.size

    def __len__(self) -> int:
        return self._progress.skipped

    def __iter__(self) -> Iterator[Skipped]:
        with self._path.open("rb") as file:
            for line in islice(file, len(self)):  # behind them may be half of one
                yield Skipped(**json.loads(line))

    def sync(self) -> None:
        """Return when all of them would survive a power cut."""
        self._file.sync()

    def close(self) -> None:
        """Write no more; what is there can be read. May be called twice."""
        self._file.close()


class Parts:
    """Appends encoded products to the files of a snapshot.

    Args:
        folder: where they are.
        progress: how far an earlier run was; what it wrote beyond is cut off. Kept up to date.
        shape: only its hidden size, patches and recall size are read.

    Raises:
        SnapshotError: a file is shorter than `progress` says.
    """

    def __init__(self, folder: Path, progress: Progress, shape: Sizes) -> None:
        self.progress = progress
        self._shape = shape
        rows = self.sizes().arrays()
        # The offsets have a row in front even when there is nothing.
        fresh = not progress.position
        self._arrays: dict[str, ArrayWriter] = {}
        try:
            for name, (dtype, (count, *row_shape)) in rows.items():
                self._arrays[name] = ArrayWriter(
                    folder / name, dtype, tuple(row_shape), rows=0 if fresh else count
                )
            self._images = BytesWriter(folder / "images.bin", progress.image_bytes)
        except BaseException:
            self.close()
            raise
        if fresh:
            for name in ("image_offsets.npy", "text_offsets.npy"):
                self._arrays[name].append(np.zeros(1, dtype=np.int64))

    def sizes(self) -> Sizes:
        """Of what has been added."""
        return Sizes(
            products=self.progress.products,
            pictures=self.progress.pictures,
            text_tokens=self.progress.text_tokens,
            hidden_size=self._shape.hidden_size,
            patches=self._shape.patches,
            recall_size=self._shape.recall_size,
        )

    def add_images(
        self, products: Sequence[int], encoded: EncodedImages, served: Sequence[bytes]
    ) -> None:
        """Append pictures.

        Args:
            products: the product row of each; rows never go down.
            encoded: their states and embeddings.
            served: their bytes.
        """
        check_finite(encoded.embeddings)
        self._arrays["image_states.npy"].append(encoded.states.values)
        self._arrays["image_scales.npy"].append(encoded.states.scales)
        self._arrays["image_embeddings.npy"].append(encoded.embeddings)
        self._arrays["image_products.npy"].append(np.asarray(products, dtype=np.int32))
        ends = self.progress.image_bytes + np.cumsum([len(data) for data in served], dtype=np.int64)
        self._arrays["image_offsets.npy"].append(ends)
        for data in served:
            self._images.append(data)
        self.progress.pictures += len(products)
        self.progress.image_bytes = int(ends[-1])

    def add_texts(self, encoded: EncodedTexts) -> None:
        """Append the texts of the products that follow, in order."""
        check_finite(encoded.embeddings)
        values, scales, lengths = ragged(encoded.states)
        self._arrays["text_states.npy"].append(values)
        self._arrays["text_scales.npy"].append(scales)
        self._arrays["text_embeddings.npy"].append(encoded.embeddings)
        ends = self.progress.text_tokens + np.cumsum(lengths, dtype=np.int64)
        self._arrays["text_offsets.npy"].append(ends)
        self.progress.products += len(lengths)
        self.progress.text_tokens = int(ends[-1])
        self.progress.truncated_texts += int(encoded.truncated.sum())

    def sync(self) -> None:
        """Return when all that was added would survive a power cut."""
        for array in self._arrays.values():
            array.sync()
        self._images.sync()

    def finish(self) -> None:
        """Make every file whole."""
        for array in self._arrays.values():
            array.finish()
        self._images.sync()
        self._images.close()

    def close(self) -> None:
        """Let go of the files as they are."""
        for array in self._arrays.values():
            array.close()
        if hasattr(self, "_images"):
            self._images.close()
