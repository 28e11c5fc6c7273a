"""Products that are written one by one, encoded as the offline job encodes them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from index.delta import StoredPut
from index.delta_frames import Segment
from index.delta_log import Write
from index.delta_records import Delete, Put, PutHead, decode_records, encode_record
from index.images import Prepared
from index.items import Item
from index.recall import Embeddings
from index.snapshot import Snapshot
from index.states import check_finite
from model.engine import Engine
from model.errors import SnapshotError
from model.preprocess import decode_image
from model.states import QuantisedStates

_logger = logging.getLogger("fashionbert.delta")


@dataclass(frozen=True, slots=True)
class EncodedPictures:
    """A product's pictures: states [V, P, H], embeddings float32 [V, E], and as they are served."""

    states: QuantisedStates
    embeddings: Embeddings
    served: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """A product to be encoded, with pictures that are new or that it had before."""

    item: Item
    pictures: tuple[Prepared, ...] | EncodedPictures


def encode_drafts(engine: Engine, drafts: Sequence[Draft]) -> list[Put]:
    """Encode products: all pictures together, and all texts.

    Raises:
        SnapshotError: the model gives what no snapshot may hold.
    """
    if not drafts:
        return []
    new = [draft.pictures for draft in drafts if not isinstance(draft.pictures, EncodedPictures)]
    pixels = [picture.pixels for pictures in new for picture in pictures]
    images = engine.encode_images(np.stack(pixels)) if pixels else None
    texts = engine.encode_texts([draft.item.text for draft in drafts])
    for encoded in (texts, images):
        if encoded is not None:
            check_finite(encoded.embeddings)
    puts = []
    at = 0
    for row, draft in enumerate(drafts):
        pictures = draft.pictures
        if not isinstance(pictures, EncodedPictures):
            assert images is not None  # a draft has at least one
            rows = slice(at, at + len(pictures))
            at = rows.stop
            served = tuple(picture.served for picture in pictures)
            pictures = EncodedPictures(images.states[rows], images.embeddings[rows], served)
        length = int(texts.lengths[row])
        states = texts.states[row : row + 1]
        puts.append(
            Put(
                item=draft.item,
                model_id=engine.model_id,
                truncated=bool(texts.truncated[row]),
                text_states=QuantisedStates(states.values[:, :length], states.scales[:, :length]),
                text_embedding=texts.embeddings[row],
                image_states=pictures.states,
                image_embeddings=pictures.embeddings,
                pictures=pictures.served,
            )
        )
    return puts


def of_model(writes: list[Write], base: Snapshot, engine: Engine | None, limit: int) -> list[Write]:
    """The writes, all with states of a snapshot's model.

    What another model has encoded is encoded again: of each product the last such write, and those
    before it are left out.

    Args:
        writes: in order.
        base: the snapshot.
        engine: its model, for writes that another one has encoded; None if it is not at hand.
        limit: so many of them at most are encoded again.

    Raises:
        SnapshotError: there are such writes and no model, or too many of them.
    """

    def is_foreign(write: Write) -> bool:
        record = write.record
        return isinstance(record, PutHead) and record.model_id != base.model_id

    foreign = {write.record.id: write for write in writes if is_foreign(write)}
    if not foreign:
        return writes
    if engine is None or len(foreign) > limit:
        raise SnapshotError(
            f"{len(foreign):,} products were written to the service with another model than "
            f"{base.model_id}, of which snapshot {base.name} is: "
            "have them encoded again with `fashionbert index compact --bundle`"
        )
    _logger.info("encoding %d products again that another model has encoded", len(foreign))
    again = {write.sequence: write for write in encode_again(engine, [*foreign.values()])}
    return [
        again.get(write.sequence, write)
        for write in writes
        if write.sequence in again or not is_foreign(write)
    ]


def encode_again(engine: Engine, writes: Sequence[Write]) -> list[Write]:
    """Writes with the states of another model, with this one's, from the pictures as served.

    The new records stand in a temporary file that has no name.
    """
    with tempfile.NamedTemporaryFile(prefix="fashionbert-") as file:
        again: list[Write] = []
        segment = Segment(Path(file.name))
        for write in writes:
            if isinstance(write.record, Delete):
                again.append(write)
                continue
            put = StoredPut(write.sequence, write.record, write.segment)
            served = [put.picture(view) for view in range(len(put.head.pictures))]
            prepared = tuple(
                Prepared(decode_image(picture, engine.image_size), picture) for picture in served
            )
            (encoded,) = encode_drafts(engine, [Draft(put.head.item, prepared)])
            offset = file.tell()
            data = encode_record(encoded)
            file.write(data)
            ((record, span),) = decode_records(data, 1, offset)
            again.append(replace(write, record=record, segment=segment, span=span))
        file.flush()
        return again
