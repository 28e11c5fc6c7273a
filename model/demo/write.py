"""Writes the demo catalogue: two feeds and a tar of pictures, the same bytes for the same seed."""

from __future__ import annotations

import csv
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import astuple, dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.progress import track

from model.demo.attributes import GARMENT_TYPES, Garment, sample_garment
from model.demo.cuts import sample_cut
from model.demo.drawing import draw_garment, sample_view
from model.demo.wording import describe
from model.errors import CatalogueError

ATTRIBUTE_COLUMNS = tuple(field.name for field in fields(Garment))
COLUMNS = ("id", "image", "title", "description", *ATTRIBUTE_COLUMNS, "price")
SECOND_VIEW = 1 / 8
"""How many products are photographed twice."""

FILES = ("train.csv", "val.csv", "images.tar")
PARTIAL = ".demo-partial-"
JPEG_QUALITY = 88

# What a random stream is for; streams of one seed are independent of each other.
_GARMENTS, _PRODUCT, _VIEW = 0, 1, 2


@dataclass(frozen=True, slots=True)
class DemoProduct:
    """One product of the demo catalogue."""

    index: int
    garment: Garment
    title: str
    description: str
    price: float
    images: tuple[str, ...]
    """Members of images.tar, one a view."""

    @property
    def row(self) -> tuple[str, ...]:
        """The product's line in a feed, in the order of `COLUMNS`."""
        return (
            f"demo-{self.index:05d}",
            "|".join(self.images),
            self.title,
            self.description,
            *astuple(self.garment),
            f"{self.price:.2f}",
        )


def demo_products(count: int, seed: int) -> list[DemoProduct]:
    """Return `count` products, no two of which share all visible attributes."""
    rng = np.random.default_rng([seed, _GARMENTS])
    seen: set[Garment] = set()
    products: list[DemoProduct] = []
    pictures = 0
    while len(products) < count:
        garment = sample_garment(rng)
        if garment in seen:
            continue
        seen.add(garment)
        index = len(products) + 1
        own = np.random.default_rng([seed, _PRODUCT, index])
        title, description = describe(garment, own)
        price = GARMENT_TYPES[garment.product_type].price * own.uniform(0.7, 1.5)
        views = 2 if own.random() < SECOND_VIEW else 1
        names = tuple(f"images/{pictures + view + 1:06d}.jpg" for view in range(views))
        pictures += views
        products.append(DemoProduct(index, garment, title, description, int(price) + 0.99, names))
    return products


def render_views(product: DemoProduct, seed: int, size: tuple[int, int]) -> list[bytes]:
    """Return the product's pictures as JPEG, one a view."""
    cut = sample_cut(np.random.default_rng([seed, _VIEW, product.index]))
    encoded = []
    for number in range(len(product.images)):
        view = sample_view(np.random.default_rng([seed, _VIEW, product.index, number + 1]))
        picture = draw_garment(product.garment, cut=cut, view=view, size=size)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
        encoded.append(buffer.getvalue())
    return encoded


def write_demo_catalogue(
    folder: Path,
    *,
    products: int = 2400,
    held_out: int = 400,
    seed: int = 0,
    size: tuple[int, int] = (192, 256),
    held_out_only: bool = False,
    processes: int = 1,
    progress: bool = False,
) -> None:
    """Write `train.csv` (`products` rows), `val.csv` (`held_out` rows) and `images.tar`.

    The same arguments give the same bytes, whatever `processes`, which draw; more than one are
    spawned, so a caller's script then needs a main guard. `size` is a picture's width and height
    in pixels. With `held_out_only` there is no `train.csv`, and only what `val.csv` names, in the
    same words and pictures as beside it, is drawn. A demo catalogue already in `folder` is
    replaced.

    Raises:
        CatalogueError: `folder` holds something other than a demo catalogue, or a number is out
            of range.
    """
    if products < 1 or held_out < 0 or seed < 0 or min(size) < 32:
        raise CatalogueError(
            f"A demo catalogue needs products >= 1, held_out >= 0, seed >= 0 and pictures of at "
            f"least 32 pixels a side; got {products}, {held_out}, {seed} and {size[0]}x{size[1]}."
        )
    folder = Path(folder)
    _refuse_foreign(folder)
    drawn = demo_products(products + held_out, seed)
    feeds = {"train.csv": drawn[:products], "val.csv": drawn[products:]}
    if held_out_only:
        del feeds["train.csv"]
        drawn = feeds["val.csv"]
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    # Aside but within the folder, which may be a mount point.
    aside = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder))
    try:
        for name, rows in feeds.items():
            _write_feed(aside / name, rows)
        _write_pictures(aside / "images.tar", drawn, seed, size, processes, progress)
        # train.csv goes first and comes last: where it stands, the catalogue is whole.
        (folder / "train.csv").unlink(missing_ok=True)
        for name in ("images.tar", *reversed(feeds)):
            os.replace(aside / name, folder / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if created and not any(folder.iterdir()):
            folder.rmdir()


def _refuse_foreign(folder: Path) -> None:
    """Raise CatalogueError unless `folder` is new, empty or an older demo catalogue."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CatalogueError(f"{folder} is a file; name a folder for the demo catalogue.")
    names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(PARTIAL)}
    foreign = sorted(names - set(FILES))
    if not foreign:
        foreign = [name for name in FILES[:2] if name in names and not _is_feed(folder / name)]
    if foreign or names == {"images.tar"}:
        raise CatalogueError(
            f"{folder} is not empty and not a demo catalogue (it holds "
            f"{(foreign or sorted(names))[0]}); nothing was written. Name an empty or a new folder."
        )


def _is_feed(path: Path) -> bool:
    header = (",".join(COLUMNS) + "\n").encode()
    with path.open("rb") as file:
        return file.read(len(header)) == header


def _write_feed(path: Path, products: list[DemoProduct]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(product.row for product in products)
        file.flush()
        os.fsync(file.fileno())


def _write_pictures(
    path: Path,
    products: list[DemoProduct],
    seed: int,
    size: tuple[int, int],
    processes: int,
    progress: bool,
) -> None:
    with ExitStack() as stack:
        file = stack.enter_context(path.open("wb"))
        archive = stack.enter_context(
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)
        )
        render = partial(render_views, seed=seed, size=size)
        rendered: Iterator[list[bytes]] = map(render, products)
        if processes > 1:
            # Processes, not threads: half of a picture's time is Python's own.
            pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
            stack.callback(pool.shutdown, cancel_futures=True)
            rendered = pool.map(render, products, chunksize=16)
        pairs = zip(products, rendered, strict=True)
        if progress:
            pairs = track(pairs, "Drawing garments", total=len(products))  # type: ignore[assignment]
        for product, pictures in pairs:
            for name, data in zip(product.images, pictures, strict=True):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o644
                archive.addfile(member, io.BytesIO(data))
    with path.open("rb") as done:
        os.fsync(done.fileno())
