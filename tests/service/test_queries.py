from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest

from model.engine import Engine
from service.queries import pack, unpack
from service.search import Searcher


def test_a_query_comes_back_as_it_was_and_finds_the_same(
    engine: Engine, searcher: Searcher
) -> None:
    first = searcher.search_text("red striped dress", k=20)
    assert first.encoded is not None
    again = unpack(pack(first.encoded), engine)
    assert again is not None
    assert np.array_equal(again.states.values, first.encoded.states.values)
    assert np.array_equal(again.states.scales, first.encoded.states.scales)
    assert np.array_equal(again.lengths, first.encoded.lengths)
    assert np.array_equal(again.embeddings, first.encoded.embeddings)
    second = searcher.search_text("red striped dress", k=20, encoded=again)
    assert second.hits == first.hits
    assert second.truncated == first.truncated


def damaged(how: str, packed: bytes) -> bytes:
    """A packed query as it should not be; the header is magic, tokens, width, recall width."""
    return {
        "empty": b"",
        "short": packed[:10],
        "cut": packed[:-1],
        "longer": packed + b"\0",
        "a former version's": b"PK\x03\x04" + packed[4:],
        "no tokens": packed[:4] + struct.pack("<I", 0) + packed[8:],
        "more tokens": packed[:4] + struct.pack("<I", 0xFFFFFFFF) + packed[8:],
        "another width": packed[:8] + struct.pack("<I", 7) + packed[12:],
        "another recall width": packed[:12] + struct.pack("<I", 3) + packed[16:],
        "pickled": pickle.dumps({"values": 1}),
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "short",
        "cut",
        "longer",
        "a former version's",
        "no tokens",
        "more tokens",
        "another width",
        "another recall width",
        "pickled",
    ],
)
def test_what_is_none_of_this_models_is_refused(how: str, engine: Engine) -> None:
    packed = pack(engine.encode_texts(["red striped dress"]))
    assert unpack(packed, engine) is not None
    assert unpack(damaged(how, packed), engine) is None
