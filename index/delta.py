"""The writes that came after a snapshot, in memory: what is hidden of it, and what is on top.

A `Delta` never changes: each batch of writes makes a new one, which shares all it can with the one
before. Of a product it holds the record and the recall embeddings; states and pictures stay in the
log and are read when they are asked for.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from index.delta_frames import Segment
from index.delta_log import Write
from index.delta_records import Delete, PutHead, decode_states
from index.recall import Embeddings
from index.snapshot import Snapshot
from model.attributes import value_type
from model.states import QuantisedStates

Mask = NDArray[np.bool_]

_ROOM = 64  # rows of a growing array at first


class GrowingRows:
    """An array that grows at its end; what it has handed out stays as it was."""

    def __init__(self, dtype: DTypeLike, row_shape: tuple[int, ...] = ()) -> None:
        self._rows: NDArray[Any] = np.empty((_ROOM, *row_shape), dtype=dtype)
        self._count = 0

    def make_room(self, count: int) -> None:
        """See that `append` of so many rows needs no more memory."""
        needed = self._count + count
        if needed > len(self._rows):
            grown = np.empty(
                (max(needed, 2 * len(self._rows)), *self._rows.shape[1:]), self._rows.dtype
            )
            grown[: self._count] = self._rows[: self._count]
            self._rows = grown

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows [n, *row_shape]."""
        self.make_room(len(rows))
        needed = self._count + len(rows)
        self._rows[self._count : needed] = rows
        self._count = needed

    def all(self) -> NDArray[Any]:
        """The rows so far, not copied."""
        return self._rows[: self._count]


@dataclass(frozen=True, slots=True)
class StoredPut:
    """A put, and the file that its states and pictures are read from."""

    sequence: int
    head: PutHead
    segment: Segment

    def text_states(self) -> QuantisedStates:
        """[T, H] and scales [T]."""
        tokens, width, _, _ = self.head.shape
        span = self.head.text_states
        return decode_states(self.segment.read(span.offset, span.length), tokens, width)

    def image_states(self, view: int) -> QuantisedStates:
        """[P, H] and scales [P] of a picture."""
        _, width, patches, _ = self.head.shape
        span = self.head.image_states[view]
        return decode_states(self.segment.read(span.offset, span.length), patches, width)

    def picture(self, view: int) -> bytes:
        """A picture as it is served."""
        span = self.head.pictures[view]
        return self.segment.read(span.offset, span.length)


class PutRows:
    """The puts in the order they came, and their arrays; only ever appended to."""

    def __init__(self, recall_size: int) -> None:
        self.puts: list[StoredPut] = []
        self.views: list[tuple[int, int]] = []  # of each picture: its put, and which of its views
        self.first_image: list[int] = [0]
        self.text_embeddings = GrowingRows(np.float32, (recall_size,))
        self.image_embeddings = GrowingRows(np.float32, (recall_size,))
        self.product_of_image = GrowingRows(np.int32)

    def append(self, put: StoredPut) -> int:
        """Add a put; returns its row."""
        row, views = len(self.puts), len(put.head.image_states)
        # First, as each of them may find the memory full: then nothing was added to any.
        self.text_embeddings.make_room(1)
        self.image_embeddings.make_room(views)
        self.product_of_image.make_room(views)
        self.text_embeddings.append(put.head.text_embedding[None])
        self.image_embeddings.append(put.head.image_embeddings)
        self.product_of_image.append(np.full(views, row, dtype=np.int32))
        self.views += [(row, view) for view in range(views)]
        self.first_image.append(self.first_image[-1] + views)
        self.puts.append(put)  # last: another thread may look at any time
        return row


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """The state after a write: `sequence` is its number.

    `rows` may have got more since; the first `products` and `pictures` of it are meant.
    `row_of` are the rows of the puts that count by id, `deleted` the ids of deletions that do.
    `base_live` [base products], `base_images_live` [base pictures], `live` [products] and
    `images_live` [pictures] mark what is neither deleted nor replaced; `base_hidden` counts the
    base products that are not marked. `types` counts the puts that count by the attributes they
    have: (name, `value_type`). `writes` counts all that was ever applied, also what later
    writes took the place of. `fingerprint` is a hash over all of them: numbers are used again when
    an older copy of the log is put back and written to, this is not.
    """

    sequence: int
    rows: PutRows
    row_of: dict[str, int]
    deleted: frozenset[str]
    base_live: Mask
    base_images_live: Mask
    base_hidden: int
    live: Mask
    images_live: Mask
    text_embeddings: Embeddings
    image_embeddings: Embeddings
    product_of_image: NDArray[np.int32]
    types: Counter[tuple[str, str]]
    writes: int
    fingerprint: str

    @classmethod
    def empty(cls, base: Snapshot, sequence: int) -> Delta:
        """Nothing on top of a snapshot."""
        rows = PutRows(base.manifest.sizes.recall_size)
        return cls(
            sequence=sequence,
            rows=rows,
            row_of={},
            deleted=frozenset(),
            base_live=np.ones(base.manifest.sizes.products, dtype=np.bool_),
            base_images_live=np.ones(base.manifest.sizes.pictures, dtype=np.bool_),
            base_hidden=0,
            live=np.empty(0, dtype=np.bool_),
            images_live=np.empty(0, dtype=np.bool_),
            text_embeddings=rows.text_embeddings.all(),
            image_embeddings=rows.image_embeddings.all(),
            product_of_image=rows.product_of_image.all(),
            types=Counter(),
            writes=0,
            fingerprint="",
        )

    @property
    def products(self) -> int:
        """Rows of products, those that no longer count among them."""
        return len(self.live)

    @property
    def pictures(self) -> int:
        """Rows of pictures, likewise."""
        return len(self.images_live)

    @property
    def truncated(self) -> int:
        """How many of the texts that count were cut to what the model reads."""
        return sum(self.rows.puts[row].head.truncated for row in self.row_of.values())

    def write_of(self, id: str) -> int | None:
        """The number of the put that made a product what it is; 0 if it was deleted, and None if
        it is as in the snapshot, or neither has it."""
        if id in self.row_of:
            return self.rows.puts[self.row_of[id]].sequence
        return 0 if id in self.deleted else None

    def __len__(self) -> int:
        """How many products differ from the snapshot: those put and those deleted."""
        return len(self.row_of) + len(self.deleted)

    def apply(self, base: Snapshot, writes: Sequence[Write]) -> Delta:
        """The state after some more writes, all at once.

        The rows of replaced puts are given up when they have become the most.
        """
        if not writes:
            return self
        rows, row_of, deleted = self.rows, dict(self.row_of), set(self.deleted)
        types = self.types.copy()
        gone: list[int] = []
        added: list[int] = []
        hidden: list[int] = []
        for write in writes:
            id = write.record.id
            if id in row_of:
                gone.append(row_of.pop(id))
                types.subtract(_types(rows.puts[gone[-1]].head))
            elif id not in deleted and (row := _row_in(base, id)) is not None:
                hidden.append(row)
            if isinstance(write.record, Delete):
                deleted.add(id)
            else:
                deleted.discard(id)
                added.append(rows.append(StoredPut(write.sequence, write.record, write.segment)))
                row_of[id] = added[-1]
                types.update(_types(write.record))
        if len(rows.puts) > 2 * len(row_of) + _ROOM:
            rows, row_of = _without_gaps(rows, row_of)
            live = np.ones(len(rows.puts), dtype=np.bool_)
        else:
            live = np.zeros(len(rows.puts), dtype=np.bool_)
            live[: self.products] = self.live
            live[added] = True
            live[gone] = False
        product_of_image = rows.product_of_image.all()
        base_live, base_images_live = self.base_live, self.base_images_live
        if hidden:
            base_live, base_images_live = base_live.copy(), base_images_live.copy()
            base_live[hidden] = False
            for row in hidden:
                pictures = base.image_rows(row)
                base_images_live[pictures.start : pictures.stop] = False
        return Delta(
            sequence=writes[-1].sequence,
            rows=rows,
            row_of=row_of,
            deleted=frozenset(deleted),
            base_live=base_live,
            base_images_live=base_images_live,
            base_hidden=self.base_hidden + len(hidden),
            live=live,
            images_live=live[product_of_image],
            text_embeddings=rows.text_embeddings.all(),
            image_embeddings=rows.image_embeddings.all(),
            product_of_image=product_of_image,
            types=+types,  # without those that no put has any more
            writes=self.writes + len(writes),
            fingerprint=_fingerprint(self.fingerprint, writes),
        )


def _fingerprint(before: str, writes: Sequence[Write]) -> str:
    """Of all writes, however many were applied at a time."""
    for write in writes:
        chained = f"{before} {write.sequence} {write.checksum}"
        before = hashlib.blake2b(chained.encode(), digest_size=16).hexdigest()
    return before


def _types(put: PutHead) -> list[tuple[str, str]]:
    return [(name, value_type(value)) for name, value in put.item.attributes.items()]


def _row_in(base: Snapshot, id: str) -> int | None:
    try:
        return base.row_of(id)
    except KeyError:
        return None


def _without_gaps(rows: PutRows, row_of: dict[str, int]) -> tuple[PutRows, dict[str, int]]:
    """Only the rows that count, in the same order."""
    packed = PutRows(rows.text_embeddings.all().shape[1])
    by_row = sorted(row_of.items(), key=lambda pair: pair[1])
    return packed, {id: packed.append(rows.puts[row]) for id, row in by_row}


def nearest(
    embeddings: Embeddings, query: Embeddings, k: int, among: Mask
) -> tuple[NDArray[np.int64], Embeddings]:
    """The k most similar of some rows by exact comparison, best first: rows and similarities."""
    rows = np.flatnonzero(among)
    similarities = embeddings[rows] @ query
    order = np.lexsort((rows, -similarities))[:k]
    return rows[order], similarities[order]
