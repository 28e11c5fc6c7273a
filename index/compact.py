"""Compaction: the current snapshot and the writes on top of it become a snapshot of their own.

Nothing is encoded: the states are there. Writes go on meanwhile, and stay on top of the new
snapshot. The log keeps the last write of each product all the same, so that a later build from the
feed has them on top too, and so has an older snapshot after a rollback; what no snapshot needs any
more goes.

Killed at any point, the folder serves what it served before: the new snapshot is built aside, and
until `CURRENT` names it the old one stands with the log that it needs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from index.delta_log import LogReader
from index.delta_merge import merge_segments, verify_log
from index.delta_records import PutHead
from index.faults import crash_point
from index.finish import finish_snapshot
from index.items import Item
from index.live import LiveSnapshot
from index.live_index import LiveIndex
from index.manifest import Sizes, read_manifest
from index.parts import Parts, Progress
from index.recall_rules import IVFPQ_FROM, Rule, choose_rule
from index.snapshot import Snapshot
from index.snapshot_folder import (
    COMPACTING,
    current,
    list_snapshots,
    locate,
    locked,
    next_name,
    prune,
    publish,
    remove_leftovers,
)
from model.engine import EncodedImages, EncodedTexts, Engine
from model.errors import SnapshotError
from model.on_disk import put_aside_in

CHUNK = 256


def compact(
    root: Path,
    *,
    engine: Engine | None = None,
    chunk: int = CHUNK,
    step: Callable[[str], None] = lambda _: None,
) -> Snapshot | None:
    """Make a snapshot of the current one and the writes on top of it, and publish it.

    Args:
        root: the folder of all snapshots.
        engine: the model, for products that another one has encoded.
        chunk: products that are copied at a time.
        step: told what is done next.

    Returns:
        The new snapshot; None if there was nothing to fold in.

    Raises:
        SnapshotError: nothing was published here, a build or a compaction is running, something is
            damaged or of another model, no product is left, or the disk is full.
        WriteError: the log cannot be written to.
    """
    current(root)  # before the lock: where there is no snapshot nothing is made
    try:
        with locked(root), put_aside_in(root):
            remove_leftovers(root)
            with LiveIndex.open(root, engine=engine, encode_again_limit=1 << 62) as live:
                snapshot = live.rotate()
                folded = live.sequence
            if snapshot.sequence == snapshot.manifest.folded:
                trim(root)
                return None
            name = _write(root, snapshot, folded, chunk, step)
            trim(root)
            return Snapshot.open(root, name)
    except OSError as error:
        raise SnapshotError(
            f"the snapshots in {root} cannot be compacted: {error.strerror or error}; what was "
            "served is served, start again once that is mended"
        ) from error


@dataclass(frozen=True, slots=True)
class Pending:
    """Products that differ from the current snapshot by later writes, and how many of those were
    encoded by another model than the snapshot's."""

    products: int
    foreign: int


def pending(root: Path) -> Pending:
    """What a compaction of the current snapshot would fold in.

    Raises:
        SnapshotError: there is no snapshot, or the log is damaged.
    """
    manifest = read_manifest(locate(root))
    last = {write.record.id: write.record for write in LogReader(root, manifest.folded).read()}
    foreign = sum(
        isinstance(record, PutHead) and record.model_id != manifest.model_id
        for record in last.values()
    )
    return Pending(len(last), foreign)


def trim(root: Path) -> int:
    """Drop what the log need not keep; to be called with the folder locked.

    Returns:
        The bytes it has lost.
    """
    manifests = [read_manifest(locate(root, name)) for name in list_snapshots(root)]
    return merge_segments(root, min((each.superseded for each in manifests), default=0))


def prune_snapshots(root: Path, keep: int) -> tuple[list[str], list[str]]:
    """Remove old snapshots, see `index.snapshot_folder.prune`, and writes that only they needed.

    Raises:
        SnapshotError: nothing was published here, a build or a compaction is running, `keep` is
            below 1, the log is damaged, whereupon nothing was removed, or the folder cannot be
            written to.
        WriteError: the log cannot be written to.
    """
    current(root)  # before the lock: where there is no snapshot nothing is made
    try:
        with locked(root):
            verify_log(root)  # while the older snapshots are there: they may be what mends it
            outcome = prune(root, keep)
            trim(root)
    except OSError as error:
        raise SnapshotError(
            f"the snapshots in {root} cannot be pruned: {error.strerror or error}; what was served "
            "is served, start again once that is mended"
        ) from error
    return outcome


def _write(
    root: Path, snapshot: LiveSnapshot, folded: int, chunk: int, step: Callable[[str], None]
) -> str:
    rows = np.flatnonzero(snapshot.items.live)
    if not len(rows):
        raise SnapshotError(
            "every product of the catalogue was deleted, and a snapshot of none cannot be: add "
            "one, or build from a feed with --supersede"
        )
    old = snapshot.manifest
    folder = root / f"{COMPACTING}{os.getpid()}"
    folder.mkdir()
    try:
        step(f"Copying {len(rows):,} products")
        sizes = _copy(snapshot, rows.tolist(), folder, chunk)
        crash_point("compact-copied")
        name = next_name(root)
        finish_snapshot(
            folder,
            name,
            sizes,
            {
                "image": _rule(old.recall["image"], old.sizes.pictures, sizes.pictures),
                "text": _rule(old.recall["text"], old.sizes.products, sizes.products),
            },
            _items(snapshot, rows.tolist()),
            step,
            model_id=snapshot.model_id,
            text_template=old.text_template,
            catalogue=old.catalogue,
            key=old.key,
            truncated_texts=min(old.truncated_texts + snapshot.delta.truncated, sizes.products),
            skipped_pictures=old.skipped_pictures,
            dropped_products=old.dropped_products,
            folded=folded,
            superseded=old.superseded,
        )
        step(f"Publishing snapshot {name}")
        publish(root, folder, name, instead_of=snapshot.base.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return name


def _copy(snapshot: LiveSnapshot, rows: list[int], folder: Path, chunk: int) -> Sizes:
    parts = Parts(folder, Progress(key=""), snapshot.manifest.sizes)
    try:
        for start in range(0, len(rows), chunk):
            span = rows[start : start + chunk]
            pictures = [picture for row in span for picture in snapshot.image_rows(row)]
            owners = [start + at for at, row in enumerate(span) for _ in snapshot.image_rows(row)]
            parts.add_images(
                owners,
                EncodedImages(snapshot.image_states(pictures), snapshot.image_embeddings(pictures)),
                [snapshot.image(picture)[0] for picture in pictures],
            )
            states = snapshot.text_states(span)
            lengths = np.count_nonzero(states.scales, axis=1).astype(np.int32)
            # Which texts were cut is not known of each product; the manifest counts them.
            uncut = np.zeros(len(span), dtype=np.bool_)
            parts.add_texts(EncodedTexts(states, lengths, snapshot.text_embeddings(span), uncut))
        parts.finish()
    finally:
        parts.close()
    return parts.sizes()


def _rule(old: Rule, had: int, has: int) -> Rule:
    """The same recall as before: what its user chose, or what fits the number."""
    by_size = choose_rule(has)
    if old == choose_rule(had) or (old == "ivfpq" and has < IVFPQ_FROM):
        return by_size
    return old


def _items(snapshot: LiveSnapshot, rows: list[int]) -> Iterator[Item]:
    """The products, integers among fractions as floats where that is the column's type.

    Of such a column float64 has every integer; see `LiveItems.attribute_types`.
    """
    types = snapshot.items.attribute_types
    for row in rows:
        item = snapshot.item(row)
        attributes = {
            name: float(value) if types[name] == "double" and isinstance(value, int) else value
            for name, value in item.attributes.items()
        }
        yield Item(item.id, item.title, item.text, item.images, attributes)
