"""The pictures of a catalogue as one memory-mapped array, made once before training.

With a frozen CNN the array holds the patch features, float16 [N, P, F]: nothing that trains comes
before them, and they are by far the slow part. Otherwise it holds the pixels, uint8 [N, S, S, 3],
so that no epoch decodes a JPEG again. Written in order with a progress file: an interrupted run
goes on where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from model.catalogue import Catalogue
from model.errors import TrainingError
from model.network import FashionBertModel
from model.preprocess import decode_image

BATCH = 32
#: Batches between two notes of how far it is: about half a minute of a CPU's work.
NOTE_EVERY = 32


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """`array`: float16 [N, P, F] features or uint8 [N, S, S, 3] pixels, one row a picture."""

    array: NDArray[Any]

    @property
    def are_features(self) -> bool:
        """Whether the rows are patch features rather than pixels."""
        return self.array.dtype == np.float16

    def batch(self, rows: Sequence[int] | NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """Rows as keyword arguments of `FashionBertModel.encode_image`."""
        gathered = torch.from_numpy(np.stack([self.array[row] for row in rows]))
        return {"features": gathered.float()} if self.are_features else {"pixels": gathered}


def _key(model: FashionBertModel, catalogue: Catalogue) -> str:
    config = model.config
    digest = hashlib.sha256(catalogue.fingerprint.encode())
    if config.freeze_cnn:
        fields = ("patches", "patch_grid", "image_size", "cnn_image_size")
        digest.update(json.dumps([getattr(config, name) for name in fields]).encode())
        for name, value in model.patch_network.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().numpy().tobytes())
    else:
        digest.update(f"pixels {config.image_size}".encode())
    return digest.hexdigest()[:20]


def _decoded(catalogue: Catalogue, names: Sequence[str], size: int) -> Iterator[NDArray[np.uint8]]:
    """uint8 [B, S, S, 3] batches, decoded on threads while the batch before is worked on."""

    def decode(name: str) -> NDArray[np.uint8]:
        return decode_image(catalogue.pictures.read(name), size)

    with ThreadPoolExecutor(max_workers=2) as pool:
        ahead = pool.map(decode, names[:BATCH])
        for start in range(0, len(names), BATCH):
            batch = np.stack(list(ahead))
            ahead = pool.map(decode, names[start + BATCH : start + 2 * BATCH])
            yield batch


def prepare_inputs(
    model: FashionBertModel,
    catalogue: Catalogue,
    cache: Path,
    *,
    progress: Progress | None = None,
) -> ImageInputs:
    """Make, or find again, the array over all pictures of a catalogue.

    Rows follow the catalogue: its products in order, each product's views in order.

    Args:
        model: its frozen patch network is run where there is one, on the model's device. Its
            patch network's memory layout becomes the fast one.
        catalogue: whose pictures.
        cache: a folder; the array's name in it is a hash of what it depends on.
        progress: shows a bar.

    Raises:
        TrainingError: the array cannot be written; how far it got is kept.
    """
    names = [name for product in catalogue.products for name in product.images]
    config = model.config
    frozen = config.freeze_cnn
    shape = (
        (len(names), config.num_patches, config.patch_feature_size)
        if frozen
        else (len(names), config.image_size, config.image_size, 3)
    )
    # Also where the array is found again: another layout rounds otherwise, and a run that goes on
    # must end as the one that was not interrupted.
    patch_network: Any = model.patch_network  # torch's stubs do not know memory_format here
    patch_network.to(memory_format=torch.channels_last)
    path = cache / f"{_key(model, catalogue)}.npy"
    if not path.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _write(model, catalogue, names, shape, path, progress)
        except OSError as error:
            if not path.with_suffix(".json").exists():
                with contextlib.suppress(OSError):
                    path.with_suffix(".part").unlink()
            size = math.prod(shape) * (2 if frozen else 1) / 1e6
            raise TrainingError(
                f"the {'patch features' if frozen else 'pictures'} of the training cannot be "
                f"written to {cache} ({error}): make room for {size:,.0f} MB, or choose another "
                "folder with --cache; started again, it goes on where it was"
            ) from error
    return ImageInputs(np.load(path, mmap_mode="r", allow_pickle=False))


def _write(
    model: FashionBertModel,
    catalogue: Catalogue,
    names: Sequence[str],
    shape: tuple[int, ...],
    path: Path,
    progress: Progress | None,
) -> None:
    config = model.config
    frozen = config.freeze_cnn
    part, state = path.with_suffix(".part"), path.with_suffix(".json")
    done = int(json.loads(state.read_text())["rows"]) if part.exists() and state.exists() else 0
    array = np.lib.format.open_memmap(
        part, mode="r+" if done else "w+", dtype=np.float16 if frozen else np.uint8, shape=shape
    )
    _reserve(part)
    task = None
    if progress is not None:
        what = "patch features" if frozen else "pictures"
        task = progress.add_task(what, total=len(names), completed=done)
    device = next(model.parameters()).device
    model.patch_network.eval()
    for batch in _decoded(catalogue, names[done:], config.image_size):
        rows = slice(done, done + len(batch))
        if frozen:
            with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16):
                features = model.patch_network(torch.from_numpy(batch).to(device))
            array[rows] = features.half().cpu().numpy()
        else:
            array[rows] = batch
        done += len(batch)
        if done % (NOTE_EVERY * BATCH) == 0:
            array.flush()
            _write_rows(state, done)
        if progress is not None and task is not None:
            progress.update(task, completed=done)
    array.flush()
    del array
    os.replace(part, path)
    state.unlink(missing_ok=True)


def _reserve(path: Path) -> None:
    """Take the file's room on the disk now: a mapped page without any would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _write_rows(state: Path, rows: int) -> None:
    temporary = state.with_suffix(".tmp")
    temporary.write_text(json.dumps({"rows": rows}))
    os.replace(temporary, state)
