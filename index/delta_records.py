"""One write to the catalogue as bytes: a product with its states and pictures, or a deletion.

A record is the length of its head, the head as JSON, and the arrays one after the other:

    uint32            length of the head
    JSON              op, id; of a put also title, text, images, attributes, model, shape, ...
    int8    [T, H]    states of the text, without padding
    float32 [T]       their scales
    float32 [E]       recall embedding of the text
    and for each picture
    int8    [P, H]    states
    float32 [P]       their scales
    float32 [E]       recall embedding
    bytes             the picture as it is served

All little-endian. Whoever reads a log keeps the head and the embeddings, and fetches states and
pictures from the file when a search asks for them.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.items import Item, as_attribute
from model.states import QuantisedStates

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Put:
    """A product that is new, or takes the place of the one with its id.

    `text_states` [1, T, H] without padding, `text_embedding` float32 [E]; `image_states`
    [V, P, H], `image_embeddings` float32 [V, E] and `pictures`, one of each a view.
    """

    item: Item
    model_id: str
    truncated: bool
    text_states: QuantisedStates
    text_embedding: NDArray[np.float32]
    image_states: QuantisedStates
    image_embeddings: NDArray[np.float32]
    pictures: tuple[bytes, ...]

    @property
    def id(self) -> str:
        """Of the product."""
        return self.item.id


@dataclass(frozen=True, slots=True)
class Delete:
    """A product is gone."""

    id: str


@dataclass(frozen=True, slots=True)
class Span:
    """Where something stands in a file."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class PutHead:
    """A put as it is kept in memory: `shape` is (T, H, P, E), embeddings are as in `Put`.

    States and pictures stay in the file; spans say where: one for the text, and one for each view.
    """

    item: Item
    model_id: str
    truncated: bool
    shape: tuple[int, int, int, int]
    text_embedding: NDArray[np.float32]
    image_embeddings: NDArray[np.float32]
    text_states: Span
    image_states: tuple[Span, ...]
    pictures: tuple[Span, ...]

    @property
    def id(self) -> str:
        """Of the product."""
        return self.item.id


def encode_record(record: Put | Delete) -> bytes:
    """A record's bytes.

    Raises:
        ValueError: its arrays do not fit together; nothing a caller of the service can cause.
    """
    if isinstance(record, Delete):
        return _head({"op": "delete", "id": record.id})
    item = record.item
    _, tokens, width = record.text_states.values.shape
    views, patches, _ = record.image_states.values.shape
    if not views == len(item.images) == len(record.pictures) == len(record.image_embeddings):
        raise ValueError(f"{views} pictures encoded of {len(item.images)}")
    fields = {
        "op": "put",
        "id": item.id,
        "title": item.title,
        "text": item.text,
        "images": list(item.images),
        "attributes": item.attributes,
        "model": record.model_id,
        "truncated": record.truncated,
        "shape": [tokens, width, patches, len(record.text_embedding)],
        "pictures": [len(picture) for picture in record.pictures],
    }
    parts = [
        _head(fields),
        _bytes(record.text_states.values, "<i1"),
        _bytes(record.text_states.scales, "<f4"),
        _bytes(record.text_embedding, "<f4"),
    ]
    for view, picture in enumerate(record.pictures):
        parts += [
            _bytes(record.image_states.values[view], "<i1"),
            _bytes(record.image_states.scales[view], "<f4"),
            _bytes(record.image_embeddings[view], "<f4"),
            picture,
        ]
    return b"".join(parts)


def _head(fields: dict[str, Any]) -> bytes:
    data = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    return _LENGTH.pack(len(data)) + data


def _bytes(array: NDArray[Any], dtype: str) -> bytes:
    return np.ascontiguousarray(array, dtype=dtype).tobytes()


def decode_records(payload: bytes, count: int, offset: int) -> list[tuple[PutHead | Delete, Span]]:
    """The records of a frame, and where each stands in the file.

    Args:
        payload: the records, one after the other.
        count: how many.
        offset: of the payload in its file.

    Raises:
        ValueError: the payload is not `count` records.
    """
    records: list[tuple[PutHead | Delete, Span]] = []
    at = 0
    try:
        for _ in range(count):
            start = at
            record: PutHead | Delete
            (length,) = _LENGTH.unpack_from(payload, at)
            at += _LENGTH.size
            fields = json.loads(payload[at : at + length])
            at += length
            if fields["op"] == "delete":
                record = Delete(fields["id"])
            elif fields["op"] == "put":
                record, at = _put(fields, payload, at, offset)
            else:
                raise ValueError(f"a record of the kind {fields['op']!r}")
            records.append((record, Span(offset + start, at - start)))
    except (struct.error, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no whole record ({error})") from error
    if at != len(payload):
        raise ValueError(f"{len(payload) - at} bytes too many")
    return records


def _put(fields: dict[str, Any], payload: bytes, at: int, offset: int) -> tuple[PutHead, int]:
    tokens, width, patches, size = fields["shape"]
    text = Span(offset + at, tokens * (width + 4))
    at += text.length
    text_embedding = _embedding(payload, at, size)
    at += 4 * size
    embeddings, images, pictures = [], [], []
    for length in fields["pictures"]:
        images.append(Span(offset + at, patches * (width + 4)))
        at += images[-1].length
        embeddings.append(_embedding(payload, at, size))
        at += 4 * size
        pictures.append(Span(offset + at, length))
        at += length
    item = Item(
        id=fields["id"],
        title=fields["title"],
        text=fields["text"],
        images=tuple(fields["images"]),
        attributes={name: as_attribute(value) for name, value in fields["attributes"].items()},
    )
    head = PutHead(
        item=item,
        model_id=fields["model"],
        truncated=fields["truncated"],
        shape=(tokens, width, patches, size),
        text_embedding=text_embedding,
        image_embeddings=np.stack(embeddings),
        text_states=text,
        image_states=tuple(images),
        pictures=tuple(pictures),
    )
    return head, at


def _embedding(payload: bytes, at: int, size: int) -> NDArray[np.float32]:
    return np.frombuffer(payload, "<f4", size, at).astype(np.float32)


def decode_states(data: bytes, rows: int, width: int) -> QuantisedStates:
    """States [rows, H] and scales [rows] as a record has them."""
    values = np.frombuffer(data, np.int8, rows * width).reshape(rows, width)
    return QuantisedStates(values, np.frombuffer(data, "<f4", rows, rows * width))
