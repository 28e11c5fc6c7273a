from __future__ import annotations

import io
import pickle

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
    assert np.array_equal(again.embeddings, first.encoded.embeddings)
    second = searcher.search_text("red striped dress", k=20, encoded=again)
    assert second.hits == first.hits
    assert second.truncated == first.truncated


def saved(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 but no more",
        pickle.dumps({"values": 1}),
        saved(values=np.zeros(3)),
        saved(
            values=np.zeros((1, 4, 7), np.int8),
            scales=np.zeros((1, 4), np.float32),
            lengths=np.array([4]),
            embeddings=np.zeros((1, 3), np.float32),
            truncated=np.array([False]),
        ),
    ],
)
def test_what_is_none_of_this_models_is_refused(data: bytes, engine: Engine) -> None:
    assert unpack(data, engine) is None


def test_nothing_is_unpickled(engine: Engine) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, ("1/0",)

    arrays = {"values": np.array([Bomb()], dtype=object)}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    assert unpack(buffer.getvalue(), engine) is None
