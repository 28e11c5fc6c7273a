"""The offline job: a catalogue becomes a snapshot.

Products are encoded in chunks. After each chunk the files are synced and a progress file beside
them is replaced, so a run that was killed goes on at its last chunk and ends with the files that
an uninterrupted one makes. While the model computes, pictures that follow are decoded and the chunk
before is written. What is held in memory are these, whatever the catalogue's size, and at the end
one recall index (see `index.recall_rules`); the rest is on disk.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from index.chunks import Chunk, EncodedChunk, chunks_of, encode_chunks
from index.console import BuildProgress
from index.delta_log import LogReader, first_write, last_write
from index.delta_records import PutHead
from index.filling import Filling
from index.finish import finish_snapshot
from index.items import Item
from index.left_out import count_pictures, kept_items, refuse_too_bad, write_report
from index.manifest import FORMAT, Sizes, read_manifest
from index.parts import Parts, Progress, Skipped, SkippedPictures
from index.processes import EncodingProcesses
from index.recall_rules import Rule, choose_rule
from index.snapshot import Snapshot
from index.snapshot_folder import (
    BUILDING,
    list_snapshots,
    locate,
    locked,
    make_current,
    next_name,
    publish,
    remove_parts,
)
from model.engine import Engine
from model.errors import CatalogueError, SnapshotError, TemporaryFileError
from model.on_disk import put_aside_in
from model.preprocess import DEFAULT_LIMITS, ImageLimits
from model.processor import cores
from model.product import Catalogue

CHUNK = 256
#: Pictures: eight passes on a CPU, for eight cores at a time. More cores are for several processes.
BATCH = 64


def build(
    catalogue: Catalogue,
    engine: Engine,
    root: Path,
    *,
    batch_size: int = BATCH,
    progress: bool = True,
    recall: str = "auto",
    max_bad: float = 0.05,
    text_template: str | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    report_path: Path | None = None,
    chunk: int = CHUNK,
    if_changed: bool = False,
    supersede: int | None = None,
    processes: int = 1,
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
        if_changed: keep the current snapshot where this model made it from this very catalogue,
            its recall is what is asked for, and it is whole; or where the newest one is that, and
            was rolled back. That one is made current again where this model cannot open the
            current one.
        supersede: the catalogue has the writes to the service up to this number (`last_written`),
            so that they are dropped; by default they are put on top of it, as the later ones
            always are.
        processes: that encode, with an engine each and a share of its threads; on GPUs a device
            each. The snapshot is the same.

    Raises:
        CatalogueError: too many pictures cannot be decoded, or nothing is left.
        TemporaryFileError: what does not fit into memory cannot be put on disk.
        BundleError: the model has no recall head.
        SnapshotError: another build, compaction or pruning is running here, the disk is full, a
            process was ended, or `recall` does not fit.
    """
    if min(batch_size, chunk, processes) < 1 or not 0 <= max_bad <= 1:
        raise SnapshotError(
            f"batch_size {batch_size}, chunk {chunk}, processes {processes}, max_bad {max_bad}: "
            "the last is a share from 0 to 1, the others are at least 1"
        )
    engine.require_recall()
    choose_rule(len(catalogue.products), recall)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root), put_aside_in(root):
            job = _Job(catalogue, engine, root, limits, max_bad, report_path, supersede)
            name = job.publish_renamed(recall)
            if name is None and if_changed:
                name = job.unchanged(recall)
            if name is None:
                with BuildProgress(enabled=progress) as bars:
                    job.encode(batch_size, chunk, processes, bars)
                    name = job.finish(recall, text_template, bars)
            remove_parts(root)
            return Snapshot.open(root, name, model_id=engine.model_id, read_items=False)
    except TemporaryFileError as error:
        raise TemporaryFileError(
            f"{error}. What is encoded is kept: start the build again once that is mended"
        ) from error
    except OSError as error:
        raise SnapshotError(
            f"the snapshot cannot be written into {root}: {error.strerror or error}; what is done "
            "is kept, start the build again once that is mended"
        ) from error


def last_written(root: Path) -> int:
    """The number of the last write to the service: what `build` takes as `supersede`.

    To be asked before the catalogue is read, as what is written afterwards is not in it.

    Raises:
        SnapshotError: the log is damaged.
    """
    try:
        folded = read_manifest(locate(root)).folded
    except SnapshotError:
        folded = 0  # nothing is current
    return last_write(root, folded)


def folded_in(root: Path, superseded: int | None) -> dict[str, Item | None]:
    """What the current snapshot has, or lacks, by writes that stay on top of a build: of each
    product the last one, None of a deletion. Without a compaction it has none of them.

    Args:
        root: the folder of all snapshots.
        superseded: what `build` takes.

    Raises:
        SnapshotError: there is no snapshot, or the log is damaged.
    """
    manifest = read_manifest(locate(root))
    if not manifest.compacted:
        return {}
    log = LogReader(root, max(superseded or 0, manifest.superseded))
    return {
        write.record.id: write.record.item if isinstance(write.record, PutHead) else None
        for write in log.read()
    }


class _Job:
    def __init__(
        self,
        catalogue: Catalogue,
        engine: Engine,
        root: Path,
        limits: ImageLimits,
        max_bad: float,
        report_path: Path | None,
        supersede: int | None,
    ) -> None:
        self._catalogue = catalogue
        self._engine = engine
        self._root = root
        self._limits = limits
        self._report_path = report_path
        self._max_bad = max_bad
        self._supersede = supersede
        made_from = (FORMAT, engine.model_id, catalogue.fingerprint, repr(limits))
        self._key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
        part = f"{BUILDING}{self._key}{'' if supersede is None else '-supersede'}"
        self._folder = root / part
        # Beside the folder, not in it: it must outlive the folder's renaming by a moment.
        self._record = root / f"{part}.json"
        self._skipped_path = root / f"{part}.skipped"
        self._progress = Progress(self._key)
        self._skipped: Iterable[Skipped] = ()
        self._refused = False

    def publish_renamed(self, recall: str) -> str | None:
        """Make current what a run left that was killed between its renaming and `CURRENT`.

        Its record tells it from one that was rolled back; a folder that is still there, from
        an earlier one of the same catalogue. Returns its name, None if there is no such snapshot.
        """
        names = list_snapshots(self._root)
        renamed = self._record.exists() and not self._folder.exists()
        if not (names and renamed and self._is_this(names[-1], recall)):
            return None
        make_current(self._root, names[-1])
        return names[-1]

    def unchanged(self, recall: str) -> str | None:
        """The current snapshot, if this job has nothing to make.

        Either it is what the job would make, or the newest one is, and was rolled back. Where the
        current one cannot be opened with this model, the newest is made current again.
        """
        try:
            now = locate(self._root).name
        except SnapshotError:
            return None
        if self._is_this(now, recall):
            return now
        newest = list_snapshots(self._root)[-1]
        if not self._is_this(newest, recall):
            return None
        try:
            Snapshot.open(self._root, now, model_id=self._engine.model_id, read_items=False)
        except SnapshotError:
            # A service with this model cannot be started on it: it was gone back to with another
            # bundle, or is damaged.
            make_current(self._root, newest)
            return newest
        return now

    def _is_this(self, name: str, recall: str) -> bool:
        """Whether a snapshot is what this job would make, and whole."""
        try:
            manifest = read_manifest(locate(self._root, name))
            same = (
                manifest.key == self._key
                and manifest.recall == _rules(manifest.sizes, recall)
                and self._supersede in (None, manifest.superseded)
            )
            if same:
                Snapshot.open(self._root, name, verify=True, read_items=False)
        except SnapshotError:
            return False
        return same

    def _dropped_writes(self) -> int:
        """The number of the last write that does not count any more once this is published."""
        try:
            before = read_manifest(locate(self._root))
        except SnapshotError:
            return first_write(self._root) - 1  # nothing current that says; so all of them count
        if self._supersede is not None:
            return max(self._supersede, before.superseded)
        return before.superseded

    def _open_parts(self) -> tuple[Parts, SkippedPictures]:
        recorded = Progress.load(self._record, self._key)
        if recorded is not None and self._folder.is_dir():
            # Else someone has been at the files; nothing in them can be trusted.
            with suppress(SnapshotError):
                return self._parts(recorded)
        self._discard()
        self._folder.mkdir()
        # Now, and not when it ends: what is written meanwhile stays.
        return self._parts(Progress(self._key, writes=self._dropped_writes()))

    def _parts(self, progress: Progress) -> tuple[Parts, SkippedPictures]:
        engine = self._engine
        shape = Sizes(0, 0, 0, engine.hidden_size, engine.patches, engine.recall_size)
        parts = Parts(self._folder, progress, shape)
        try:
            skipped = SkippedPictures(self._skipped_path, progress)
        except BaseException:
            parts.close()
            raise
        self._progress = progress
        return parts, skipped

    def _discard(self) -> None:
        self._record.unlink(missing_ok=True)
        self._skipped_path.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def encode(self, batch_size: int, chunk: int, processes: int, bars: BuildProgress) -> None:
        """Encode every product that no earlier run has."""
        products = self._catalogue.products
        most = int(self._max_bad * count_pictures(self._catalogue))
        parts, skipped = self._open_parts()
        bars.start_encoding(len(products), self._progress.position)
        left = chunks_of(products, self._progress.position, chunk)
        filling = Filling(parts, skipped, self._record, lambda: self._refuse_too_bad(skipped, most))
        try:
            with ExitStack() as stack:
                # Left last to first: what encodes stops before what writes.
                stack.enter_context(filling)
                encoded = self._encoder(left, batch_size, processes, bars, stack)
                for one in stack.enter_context(closing(encoded)):
                    filling.add(one)
                    bars.advance_to(one.stop)
            parts.finish()
        finally:
            parts.close()
            skipped.close()
            try:
                if self._report_path is not None:
                    write_report(self._report_path, self._catalogue, skipped)
            finally:
                if self._refused:
                    # Started again it would stop here at once, even after the pictures were mended.
                    self._discard()
        self._skipped = skipped

    def _encoder(
        self,
        chunks: Iterator[Chunk],
        batch_size: int,
        processes: int,
        bars: BuildProgress,
        stack: ExitStack,
    ) -> Generator[EncodedChunk, None, None]:
        """What gives the chunks encoded: this process, or several others."""
        pictures, limits = self._catalogue.pictures, self._limits
        if processes == 1:
            return encode_chunks(
                self._engine,
                pictures,
                chunks,
                batch_size=batch_size,
                limits=limits,
                threads=cores(),
                advance=bars.advance_to,
            )
        started = EncodingProcesses(
            self._engine, pictures, processes, batch_size=batch_size, limits=limits
        )
        return stack.enter_context(started).encode(chunks)

    def _refuse_too_bad(self, skipped: SkippedPictures, most: int) -> None:
        try:
            refuse_too_bad(self._catalogue, skipped, most)
        except CatalogueError:
            self._refused = True
            raise

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
        name = next_name(self._root)
        writes = self._progress.writes
        try:
            finish_snapshot(
                self._folder,
                name,
                sizes,
                _rules(sizes, recall),
                kept_items(self._catalogue.products, self._skipped),
                bars.start_step,
                model_id=engine.model_id,
                text_template=text_template,
                catalogue=self._catalogue.fingerprint,
                key=self._key,
                truncated_texts=progress.truncated_texts,
                skipped_pictures=progress.skipped,
                dropped_products=len(self._catalogue.products) - progress.products,
                folded=writes,
                superseded=writes,
            )
        except SnapshotError as error:
            # What was encoded is hours of work, and likely sound: all else is made anew of it.
            raise SnapshotError(
                f"{error}. Started again, it goes on from what was encoded; if it ends here again, "
                f"remove {self._folder} first"
            ) from error
        bars.start_step(f"Publishing snapshot {name}")
        publish(self._root, self._folder, name)
        return name


def _rules(sizes: Sizes, recall: str) -> dict[str, Rule]:
    """The rule of each modality's index."""
    return {
        modality: choose_rule(sizes.arrays()[f"{modality}_embeddings.npy"][1][0], recall)
        for modality in ("image", "text")
    }
