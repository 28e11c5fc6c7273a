"""Encoded query texts as bytes, so that a text that is searched again is not encoded again."""

from __future__ import annotations

import struct

import numpy as np

from model.engine import EncodedTexts, Engine
from model.states import QuantisedStates

#: Magic, tokens T, width H, recall width E, and 1 if the text was cut. The arrays follow: values
#: int8 [T, H], scales float32 [T], embedding float32 [E], all little-endian. numpy's own format for
#: several arrays is a zip file, slow to write for what is small.
_HEADER = struct.Struct("<4sIIIB")
_MAGIC = b"fbq2"
_FLOAT = np.dtype("<f4")


def pack(encoded: EncodedTexts) -> bytes:
    """One encoded text as bytes."""
    values, scales = encoded.states.values, encoded.states.scales
    _, tokens, width = values.shape
    size = encoded.embeddings.shape[1]
    return b"".join(
        (
            _HEADER.pack(_MAGIC, tokens, width, size, bool(encoded.truncated[0])),
            values.tobytes(),
            scales.astype(_FLOAT).tobytes(),
            encoded.embeddings.astype(_FLOAT).tobytes(),
        )
    )


def unpack(data: bytes, engine: Engine) -> EncodedTexts | None:
    """The encoded text, or None if this is none of the engine's model."""
    if len(data) < _HEADER.size:
        return None
    magic, tokens, width, size, truncated = _HEADER.unpack_from(data)
    ends = np.cumsum([_HEADER.size, tokens * width, _FLOAT.itemsize * tokens])
    if (
        (magic, width, size) != (_MAGIC, engine.hidden_size, engine.recall_size)
        or not tokens
        or len(data) != ends[-1] + _FLOAT.itemsize * size
    ):
        return None
    values = np.frombuffer(data, np.int8, tokens * width, ends[0]).reshape(1, tokens, width)
    scales = np.frombuffer(data, _FLOAT, tokens, ends[1]).astype(np.float32)[None]
    embeddings = np.frombuffer(data, _FLOAT, size, ends[2]).astype(np.float32)[None]
    return EncodedTexts(
        QuantisedStates(values, scales),
        np.array([tokens], dtype=np.int32),
        embeddings,
        np.array([bool(truncated)]),
    )
