"""Encoded query texts as bytes, so that a text that is searched again is not encoded again."""

from __future__ import annotations

import io
import zipfile

import numpy as np

from model.engine import EncodedTexts, Engine
from model.states import QuantisedStates


def pack(encoded: EncodedTexts) -> bytes:
    """One encoded text as bytes."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        values=encoded.states.values,
        scales=encoded.states.scales,
        lengths=encoded.lengths,
        embeddings=encoded.embeddings,
        truncated=encoded.truncated,
    )
    return buffer.getvalue()


def unpack(data: bytes, engine: Engine) -> EncodedTexts | None:
    """The encoded text, or None if this is none of the engine's model. Nothing is unpickled."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            encoded = EncodedTexts(
                QuantisedStates(arrays["values"], arrays["scales"]),
                arrays["lengths"],
                arrays["embeddings"],
                arrays["truncated"],
            )
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
        return None
    values, scales = encoded.states.values, encoded.states.scales
    fits = (
        values.shape == (1, *scales.shape[1:], engine.hidden_size)
        and values.dtype == np.int8
        and scales.dtype == np.float32
        and encoded.embeddings.shape == (1, engine.recall_size)
        and encoded.embeddings.dtype == np.float32
        and len(encoded.lengths) == len(encoded.truncated) == 1
    )
    return encoded if fits else None
