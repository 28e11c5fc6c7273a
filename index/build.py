"""The offline job: a catalogue becomes a snapshot.

Products are encoded in chunks. After each chunk the files are synced and a progress file beside
them is replaced, so a run that was killed goes on at its last chunk and ends with the files that
an uninterrupted one makes. Nothing is held in memory but the chunk; the rest is on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from index.console import BuildProgress
from index.delta_log import first_write, last_write
from index.finish import finish_snapshot
from index.images import Prepared, prepare_image
from index.items import Item
from index.manifest import FORMAT, Sizes, read_manifest
from index.parts import Parts, Progress, Skipped
from index.recall import choose_rule
from index.snapshot import Snapshot
from index.versions import (
    BUILDING,
    current,
    list_snapshots,
    locate,
    locked,
    next_name,
    publish,
    remove_parts,
    set_current,
)
from model.catalogue import Catalogue, Product
from model.engine import Engine
from model.errors import CatalogueError, ImageError, SnapshotError
from model.files import write_atomically
from model.preprocess import DEFAULT_LIMITS, ImageLimits

CHUNK = 256

T = TypeVar("T")
R = TypeVar("R")


def build(
    catalogue: Catalogue,
    engine: Engine,
    root: Path,
    *,
    batch_size: int = 32,
    progress: bool = True,
    recall: str = "auto",
    max_bad: float = 0.05,
    text_template: str | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    report_path: Path | None = None,
    chunk: int = CHUNK,
    if_changed: bool = False,
    supersede: bool = False,
) -> Snapshot:
    """Encode a catalogue and publish it as the current snapshot.

    A run that was killed goes on where it was, if model and catalogue are the same. A picture that
    cannot be decoded is left out, and a product that has no other.

    Args:
        catalogue: what to encode; its pictures are read once.
        engine: the model.
        root: the folder of all snapshots; made if need be.
        batch_size: pictures that are decoded ahead and encoded together.
        progress: show bars with rate and time left on standard error.
        recall: `auto`, `exact`, `hnsw` or `ivfpq`; see `index.recall`.
        max_bad: the share of the pictures that may be left out (0 to 1).
        text_template: what the texts were made of, for the record.
        limits: what a picture may weigh.
        report_path: where to write what was left out, as JSON lines.
        chunk: products between two records of the progress.
        if_changed: keep the current snapshot where this model made it from this very catalogue
            and it is whole.
        supersede: the catalogue has all that was written to the service before this job began, so
            that those writes are dropped; by default they are put on top of it, as the later ones
            always are.

    Raises:
        CatalogueError: too many pictures cannot be decoded, or nothing is left.
        BundleError: the model has no recall head.
        SnapshotError: another build is running here, the disk is full, or `recall` does not fit.
    """
    if batch_size < 1 or chunk < 1 or not 0 <= max_bad <= 1:
        raise SnapshotError(
            f"batch_size {batch_size}, chunk {chunk}, max_bad {max_bad}: the first two are at "
            "least 1, the last is a share from 0 to 1"
        )
    engine.require_recall()
    choose_rule(len(catalogue.products), recall)
    try:
        with locked(root):
            job = _Job(catalogue, engine, root, limits, max_bad, report_path, supersede)
            name = job.published()
            if name is None and if_changed:
                name = job.unchanged()
            if name is None:
                with BuildProgress(enabled=progress) as bars:
                    job.encode(batch_size, chunk, bars)
                    name = job.finish(recall, text_template, bars)
            remove_parts(root)
            return Snapshot.open(root, name, model_id=engine.model_id)
    except OSError as error:
        raise SnapshotError(
            f"the snapshot cannot be written into {root}: {error.strerror or error}; what is done "
            "is kept, start the build again once that is mended"
        ) from error


@dataclass(frozen=True, slots=True)
class _View:
    """One picture of the catalogue: the position of its product, and its name."""

    product: int
    name: str


class _Job:
    def __init__(
        self,
        catalogue: Catalogue,
        engine: Engine,
        root: Path,
        limits: ImageLimits,
        max_bad: float,
        report_path: Path | None,
        supersede: bool,
    ) -> None:
        self._catalogue = catalogue
        self._engine = engine
        self._root = root
        self._limits = limits
        self._report_path = report_path
        self._pictures = sum(len(product.images) for product in catalogue.products)
        self._may_skip = int(max_bad * self._pictures)
        self._supersede = supersede
        made_from = (FORMAT, engine.model_id, catalogue.fingerprint, repr(limits))
        self._key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
        part = f"{BUILDING}{self._key}{'-supersede' if supersede else ''}"
        self._folder = root / part
        # Beside the folder, not in it: it must outlive the folder's renaming by a moment.
        self._record = root / f"{part}.json"
        self._progress = Progress(self._key)

    def published(self) -> str | None:
        """The snapshot that a run killed between its renaming and `CURRENT` left, now current."""
        names = list_snapshots(self._root)
        try:
            if names and (self._root / "CURRENT").exists() and current(self._root) == names[-1]:
                return None
            snapshot = Snapshot.open(self._root, names[-1], verify=True) if names else None
        except SnapshotError:
            return None
        if snapshot is None or not self._is_this(snapshot):
            return None
        set_current(self._root, snapshot.name)
        return snapshot.name

    def unchanged(self) -> str | None:
        """The current snapshot, if it is what this job would make, and whole."""
        try:
            snapshot = Snapshot.open(self._root, verify=True)
        except SnapshotError:
            return None
        return snapshot.name if self._is_this(snapshot) else None

    def _is_this(self, snapshot: Snapshot) -> bool:
        """Whether a snapshot is what this job would make."""
        manifest = snapshot.manifest
        stands = not self._supersede or manifest.superseded == last_write(self._root, 0)
        return manifest.key == self._key and stands

    def _dropped_writes(self) -> int:
        """The number of the last write that does not count any more once this is published."""
        try:
            before = read_manifest(locate(self._root))
        except SnapshotError:
            return first_write(self._root) - 1  # nothing current that says; so all of them count
        if self._supersede:
            return last_write(self._root, before.folded)
        return before.superseded

    def _open_parts(self) -> Parts:
        engine = self._engine
        shape = Sizes(0, 0, 0, engine.hidden_size, engine.patches, engine.recall_size)
        recorded = Progress.load(self._record, self._key)
        if recorded is not None and self._folder.is_dir():
            try:
                self._progress = recorded
                return Parts(self._folder, recorded, shape)
            except SnapshotError:
                # Someone has been at the files; nothing in them can be trusted.
                self._progress = Progress(self._key)
        self._discard()
        self._folder.mkdir()
        # Now, and not when it ends: what is written meanwhile is not in the catalogue.
        self._progress.writes = self._dropped_writes()
        return Parts(self._folder, self._progress, shape)

    def _discard(self) -> None:
        self._record.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def encode(self, batch_size: int, chunk: int, bars: BuildProgress) -> None:
        """Encode every product that no earlier run has."""
        parts = self._open_parts()
        products = self._catalogue.products
        chunks = [
            range(start, min(start + chunk, len(products)))
            for start in range(self._progress.position, len(products), chunk)
        ]
        bars.start_encoding(len(products), self._progress.position)
        threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
        try:
            batches = (batch for span in chunks for batch in self._batches(span, batch_size))
            prepared = _ahead(threads, self._prepare, batches)
            for span in chunks:
                self._encode_chunk(span, batch_size, prepared, parts, bars)
            parts.finish()
        finally:
            threads.shutdown(cancel_futures=True)
            parts.close()
            self._write_report()

    def _batches(self, span: range, batch_size: int) -> Iterator[list[_View]]:
        views = [_View(at, name) for at in span for name in self._catalogue.products[at].images]
        return (views[at : at + batch_size] for at in range(0, len(views), batch_size))

    def _prepare(self, view: _View) -> Prepared | Skipped:
        try:
            data = self._catalogue.pictures.read(view.name)
            return prepare_image(data, self._engine.image_size, self._limits)
        except (CatalogueError, ImageError) as error:
            return Skipped(view.product, view.name, str(error))

    def _encode_chunk(
        self,
        span: range,
        batch_size: int,
        prepared: Iterator[list[Prepared | Skipped]],
        parts: Parts,
        bars: BuildProgress,
    ) -> None:
        progress = self._progress
        rows: dict[int, int] = {}  # position in the catalogue → row in the snapshot
        for batch in self._batches(span, batch_size):
            owners: list[int] = []
            good: list[Prepared] = []
            for view, outcome in zip(batch, next(prepared), strict=True):
                if isinstance(outcome, Skipped):
                    progress.skipped.append(outcome)
                    continue
                # A product gets its row with its first good picture, so none is left empty.
                owners.append(rows.setdefault(view.product, progress.products + len(rows)))
                good.append(outcome)
            self._refuse_too_bad()
            if good:
                encoded = self._engine.encode_images(np.stack([each.pixels for each in good]))
                parts.add_images(owners, encoded, [each.served for each in good])
            bars.advance_to(batch[-1].product)
        if rows:
            texts = [self._catalogue.products[position].text for position in rows]
            parts.add_texts(self._engine.encode_texts(texts))
        parts.sync()
        progress.position = span.stop
        progress.save(self._record)
        bars.advance_to(span.stop)

    def _refuse_too_bad(self) -> None:
        skipped = self._progress.skipped
        if len(skipped) <= self._may_skip:
            return
        # Started again it would stop here at once, even after the pictures were mended.
        self._discard()
        last = skipped[-1]
        raise CatalogueError(
            f"{len(skipped):,} of {self._pictures:,} pictures of the catalogue cannot be read, "
            f"more than the {self._may_skip:,} allowed, the last of them {last.image!r} of product "
            f"{self._catalogue.products[last.product].id!r}: {last.detail}. "
            "Mend the pictures, or allow more with --max-bad."
        )

    def _write_report(self) -> None:
        if self._report_path is None:
            return
        lines = [
            json.dumps(
                {
                    "id": self._catalogue.products[each.product].id,
                    "image": each.image,
                    "detail": each.detail,
                },
                ensure_ascii=False,
            )
            for each in self._progress.skipped
        ]
        self._report_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._report_path, "".join(f"{line}\n" for line in lines).encode())

    def finish(self, recall: str, text_template: str | None, bars: BuildProgress) -> str:
        """Recall indexes, items and manifest; publish. Returns the snapshot's name."""
        progress = self._progress
        if not progress.products:
            self._discard()
            raise CatalogueError(
                f"no picture of the catalogue's {len(self._catalogue.products):,} products can be "
                "read: there is nothing to search"
            )
        engine = self._engine
        sizes = Sizes(
            products=progress.products,
            pictures=progress.pictures,
            text_tokens=progress.text_tokens,
            hidden_size=engine.hidden_size,
            patches=engine.patches,
            recall_size=engine.recall_size,
        )
        rules = {
            modality: choose_rule(sizes.arrays()[f"{modality}_embeddings.npy"][1][0], recall)
            for modality in ("image", "text")
        }
        name = next_name(self._root)
        writes = self._progress.writes
        finish_snapshot(
            self._folder,
            name,
            sizes,
            rules,
            _items(self._catalogue.products, progress.skipped),
            bars.start_step,
            model_id=engine.model_id,
            text_template=text_template,
            catalogue=self._catalogue.fingerprint,
            key=self._key,
            truncated_texts=progress.truncated_texts,
            skipped_pictures=len(progress.skipped),
            dropped_products=len(self._catalogue.products) - progress.products,
            folded=writes,
            superseded=writes,
        )
        bars.start_step(f"Publishing snapshot {name}")
        publish(self._root, self._folder, name)
        return name


def _items(products: list[Product], skipped: list[Skipped]) -> Iterator[Item]:
    """The products that are kept, with the pictures that are."""
    left_out = {(each.product, each.image) for each in skipped}
    for at, product in enumerate(products):
        images = tuple(name for name in product.images if (at, name) not in left_out)
        if images:
            yield Item(product.id, product.title, product.text, images, product.attributes)


def _ahead(
    threads: ThreadPoolExecutor, work: Callable[[T], R], batches: Iterable[list[T]]
) -> Iterator[list[R]]:
    """The results of each batch, the next one being worked on while the caller has this one."""
    pending: deque[list[Future[R]]] = deque()
    for batch in batches:
        pending.append([threads.submit(work, item) for item in batch])
        if len(pending) > 1:
            yield [future.result() for future in pending.popleft()]
    while pending:
        yield [future.result() for future in pending.popleft()]
