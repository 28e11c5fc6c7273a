"""The pictures of a catalogue as one memory-mapped array, made once before training.

With a frozen CNN the array holds the patch features, float16 [N, P, F]: nothing that trains comes
before them, and they are by far the slow part. Otherwise it holds the pixels, uint8 [N, S, S, 3],
so that no epoch decodes a JPEG again; or, where a CNN's first stages are frozen and disk is cheaper
than computing, what these make of each picture and of its mirror image, float16 [N, 2, h, w, C],
or of the picture alone, [N, 1, h, w, C].
Written in order with a progress file: an interrupted run goes on where it was. Of several runs that
want the same array one makes it, and the others wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from model.errors import TrainingError
from model.files import take_lock, write_json
from model.mixed_precision import autocast
from model.network import FashionBertModel
from model.patches import GridPatches, frozen_state
from model.preprocess import decode_image
from model.product import Catalogue

#: Share of pictures that are equal to another above which it is worth a word.
_WORTH_A_WORD = 0.05

BATCH = 32
#: Batches between two notes of how far it is: about half a minute of a CPU's work.
NOTE_EVERY = 32


@dataclass(frozen=True, slots=True)
class ImageInputs:
    """`array`: features, maps or pixels as the module says, one row a picture."""

    array: NDArray[Any]

    @property
    def are_features(self) -> bool:
        """Whether the rows are patch features."""
        return self.array.ndim == 3

    @property
    def are_maps(self) -> bool:
        """Whether the rows are what the frozen stages put out."""
        return self.array.ndim == 5

    def batch(
        self, rows: Sequence[int] | NDArray[np.int64], mirrored: NDArray[np.bool_] | None = None
    ) -> dict[str, torch.Tensor]:
        """Rows as keyword arguments of `FashionBertModel.encode_image`.

        Args:
            rows: [B].
            mirrored: bool [B], of maps with mirror images: which are shown so; none by default.
        """
        if self.are_maps:
            sides = np.zeros(len(rows), np.int64) if mirrored is None else mirrored.astype(np.int64)
            maps = np.stack([self.array[row, side] for row, side in zip(rows, sides, strict=True)])
            return {"maps": torch.from_numpy(maps).float()}
        gathered = torch.from_numpy(np.stack([self.array[row] for row in rows]))
        return {"features": gathered.float()} if self.are_features else {"pixels": gathered}


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the rows are: `name`, their shape and type, and how pixels [B, S, S, 3] become them."""

    name: str
    shape: tuple[int, ...]
    dtype: type[np.float16] | type[np.uint8]
    compute: Callable[[torch.Tensor], torch.Tensor] | None = None


def _kind(model: FashionBertModel, maps: bool, mirror: bool) -> _Kind:
    config, network = model.config, model.patch_network
    if config.freeze_cnn:
        shape = (config.num_patches, config.patch_feature_size)
        # Of crops each goes through the CNN: so many at once, not so many pictures.
        at_once = max(1, BATCH // config.num_patches) if config.patches == "crop" else BATCH

        def features(pixels: torch.Tensor) -> torch.Tensor:
            return torch.cat([network(part) for part in pixels.split(at_once)])

        return _Kind("patch features", shape, np.float16, features)
    if not maps:
        return _Kind("pictures", (config.image_size, config.image_size, 3), np.uint8)
    if not isinstance(network, GridPatches):
        raise TrainingError(
            f"the maps of frozen stages can be kept with patches=grid, not {config.patches}: "
            "train it with --no-keep-maps"
        )

    def sides(pixels: torch.Tensor) -> torch.Tensor:
        shown = (pixels, pixels.flip(2)) if mirror else (pixels,)
        return torch.stack([network.frozen_maps(each) for each in shown], 1)

    device = next(model.parameters()).device
    blank = torch.zeros(1, config.image_size, config.image_size, 3, dtype=torch.uint8)
    with torch.inference_mode():
        maps_shape = tuple(sides(blank.to(device)).shape[1:])
    return _Kind("maps of the frozen stages", maps_shape, np.float16, sides)


def _key(model: FashionBertModel, catalogue: Catalogue, kind: _Kind) -> str:
    """By the pictures alone: other texts or prices beside them make nothing else of them."""
    config = model.config
    digest = hashlib.sha256(catalogue.pictures_fingerprint.encode())
    if kind.compute is not None:
        fields = ("patches", "patch_grid", "image_size", "cnn_image_size")
        digest.update(json.dumps([getattr(config, name) for name in fields]).encode())
        if any(parameter.requires_grad for parameter in model.patch_network.parameters()):
            digest.update(f"maps {config.frozen_cnn_stages} of {kind.shape[0]}".encode())
        for name, value in frozen_state(model.patch_network).items():
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
    maps: bool = False,
    mirror: bool = True,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> ImageInputs:
    """Make, or find again, the array over all pictures of a catalogue.

    Rows follow the catalogue: its products in order, each product's views in order.

    Args:
        model: its frozen patch network is run where there is one, on the model's device. Its
            patch network's memory layout becomes the fast one.
        catalogue: whose pictures.
        cache: a folder, which runs may share; the array's name in it is a hash of what it
            depends on.
        maps: keep what the CNN's frozen stages put out, where only some of its stages are.
        mirror: of maps, those of the mirror images too.
        progress: shows a bar.
        note: told, when the array is made, if more than 5 % of the pictures are equal to another.

    Raises:
        TrainingError: the array cannot be written; how far it got is kept. Or all pictures are
            equal, or this CNN has no frozen stages whose maps could be kept.
    """
    names = [name for product in catalogue.products for name in product.images]
    # Also where the array is found again: another layout rounds otherwise, and a run that goes on
    # must end as the one that was not interrupted.
    patch_network: Any = model.patch_network  # torch's stubs do not know memory_format here
    patch_network.to(memory_format=torch.channels_last)
    kind = _kind(model, maps, mirror)
    path = cache / f"{_key(model, catalogue, kind)}.npy"
    shape = (len(names), *kind.shape)
    try:
        array = _array(path, kind.dtype, shape)
        if array is None:
            cache.mkdir(parents=True, exist_ok=True)
            with _alone(path, progress):
                array = _array(path, kind.dtype, shape)  # another run may have made it meanwhile
                if array is None:
                    path.unlink(missing_ok=True)  # a damaged one
                    _write(model, catalogue, names, kind, path, progress, note)
                    array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        size = math.ceil(math.prod(shape) * np.dtype(kind.dtype).itemsize / 1e6)
        raise TrainingError(
            f"the {kind.name} cannot be written to {cache} ({error}): make room for {size:,} "
            "MB, or choose another folder with --cache; started again with the same folder, it "
            "goes on where it was"
        ) from error
    return ImageInputs(array)


def _array(path: Path, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """The array of a file, memory-mapped; None if there is none, or one that is damaged.

    Raises:
        OSError: it cannot be looked at, which does not make it a damaged one.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == dtype else None


@contextlib.contextmanager
def _alone(path: Path, progress: Progress | None) -> Iterator[None]:
    """Keep other runs from making this array; first wait for one that does.

    What is half there stays if its progress is noted. The lock's file goes once the array is
    there, and not before: those who wait have it open, and who comes later must find the same one.
    """
    lock = path.with_suffix(".lock")
    try:
        handle = take_lock(lock)
    except BlockingIOError:
        with _bar(progress, "waiting: another run makes them"):
            handle = take_lock(lock, wait=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.exists():
                lock.unlink()
            elif not path.with_suffix(".json").exists():
                _sums(path).unlink(missing_ok=True)
                path.with_suffix(".part").unlink()
        os.close(handle)


@contextlib.contextmanager
def _bar(progress: Progress | None, text: str) -> Iterator[None]:
    """A bar without an end, where there are bars."""
    if progress is None:
        yield
        return
    task = progress.add_task(text, total=None)
    try:
        yield
    finally:
        progress.remove_task(task)


def _write(
    model: FashionBertModel,
    catalogue: Catalogue,
    names: Sequence[str],
    kind: _Kind,
    path: Path,
    progress: Progress | None,
    note: Callable[[str], None] | None,
) -> None:
    part, state, sums_path = path.with_suffix(".part"), path.with_suffix(".json"), _sums(path)
    count = len(names)
    both = (part, kind.dtype, (count, *kind.shape)), (sums_path, np.dtype(np.uint64), (count,))
    begun = all(_array(*file) is not None for file in both)
    done = _rows(state, count) if begun else 0
    mode: Literal["r+", "w+"] = "r+" if done else "w+"
    array, sums = (
        np.lib.format.open_memmap(file, mode=mode, dtype=dtype, shape=shape)
        for file, dtype, shape in both
    )
    _reserve(part)
    _reserve(sums_path)
    task = None
    if progress is not None:
        task = progress.add_task(kind.name, total=len(names), completed=done)
    device = next(model.parameters()).device
    model.patch_network.eval()
    for batch in _decoded(catalogue, names[done:], model.config.image_size):
        rows = slice(done, done + len(batch))
        sums[rows] = [_checksum(picture) for picture in batch]
        if kind.compute is not None:
            with torch.inference_mode(), autocast(device):
                features = kind.compute(torch.from_numpy(batch).to(device))
            array[rows] = features.half().cpu().numpy()
        else:
            array[rows] = batch
        done += len(batch)
        if done % (NOTE_EVERY * BATCH) == 0:
            array.flush()
            sums.flush()
            write_json(state, {"rows": done})
        if progress is not None and task is not None:
            progress.update(task, completed=done)
    array.flush()
    del array
    try:
        _check_different(sums, note)
    except TrainingError:
        state.unlink(missing_ok=True)  # so that nothing is kept of it
        raise
    del sums
    os.replace(part, path)
    state.unlink(missing_ok=True)
    sums_path.unlink()


def _rows(state: Path, count: int) -> int:
    """How many of the rows a half-made array has; none where nothing sound tells."""
    try:
        rows = json.loads(state.read_text())["rows"]
    except (OSError, ValueError, TypeError, KeyError):
        return 0
    return rows if type(rows) is int and 0 <= rows <= count else 0


def _sums(path: Path) -> Path:
    """Beside a half-made array, uint64 [N]: the checksums of its pictures' pixels."""
    return path.with_suffix(".sums")


def _checksum(picture: NDArray[np.uint8]) -> int:
    return int.from_bytes(hashlib.blake2b(picture.tobytes(), digest_size=8).digest(), "little")


def _check_different(sums: NDArray[np.uint64], note: Callable[[str], None] | None) -> None:
    """Refuse pictures that are all one; tell of many that are."""
    counts = np.unique(sums, return_counts=True)[1]
    if len(sums) > 1 and len(counts) == 1:
        raise TrainingError(
            f"all {len(sums)} pictures are the same, pixel for pixel, so no text can find its own: "
            "look at the image column, and whether the pictures were replaced by a placeholder"
        )
    alike, most = int(counts[counts > 1].sum()), int(counts.max(initial=0))
    if note is not None and alike > _WORTH_A_WORD * len(sums):
        note(
            f"{alike:,} of {len(sums):,} pictures are the same as another, pixel for pixel, one of "
            f"them {most:,} times: are they placeholders?"
        )


def _reserve(path: Path) -> None:
    """Take the file's room on the disk now: a mapped page without any would kill the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
