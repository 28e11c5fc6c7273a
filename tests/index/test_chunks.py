"""Chunks of a catalogue, encoded while what follows is decoded."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from index.chunks import Chunk, chunks_of, encode_chunks
from model.engine import Engine, offline_engine
from model.pictures import TarPictures
from model.preprocess import DEFAULT_LIMITS
from model.product import Catalogue


class _Watched(TarPictures):
    """A tar that counts what is read, and breaks at a name."""

    def __init__(self, path: Path, broken: str | None = None) -> None:
        super().__init__(path)
        self.reads = 0
        self._broken = broken

    def read(self, name: str) -> bytes:
        self.reads += 1
        if name == self._broken:
            raise RuntimeError("the disk is gone")
        return super().read(name)


def _given(batch_size: int) -> dict[str, object]:
    return {"batch_size": batch_size, "limits": DEFAULT_LIMITS, "threads": 2}


def test_chunks_are_all_products_in_order(catalogue: Catalogue) -> None:
    chunks = list(chunks_of(catalogue.products, 30, 25))
    assert [(chunk.start, chunk.stop) for chunk in chunks] == [(30, 55), (55, 80), (80, 96)]
    assert [id for chunk in chunks for id in chunk.ids] == [
        product.id for product in catalogue.products[30:]
    ]
    assert chunks[1].images[3] == catalogue.products[58].images
    assert chunks[2].texts[-1] == catalogue.products[95].text


@pytest.mark.parametrize("encoders", [1, 2])
def test_what_is_ahead_is_a_batch_and_one_more_where_two_go_on_at_once(
    encoders: int, catalogue: Catalogue, engine: Engine
) -> None:
    engine = engine if encoders == 1 else offline_engine(engine.bundle, threads=encoders)
    taken: list[Chunk] = []

    def source() -> object:
        for chunk in chunks_of(catalogue.products, 0, 4):
            taken.append(chunk)
            yield chunk

    with _Watched(catalogue.pictures.path) as pictures:
        encoded = encode_chunks(engine, pictures, source(), **_given(3))  # type: ignore[arg-type]
        done = 0
        for number, chunk in enumerate(encoded):
            done += sum(len(batch.served) for batch in chunk.batches)
            assert pictures.reads <= done + 3 * encoders
            assert len(taken) <= number + 1 + encoders
        assert number == 23
        assert pictures.reads == done == sum(len(one.images) for one in catalogue.products)


def test_one_that_is_left_in_the_middle_stops_reading(catalogue: Catalogue, engine: Engine) -> None:
    with _Watched(catalogue.pictures.path) as pictures:
        source = chunks_of(catalogue.products, 0, 4)
        with closing(encode_chunks(engine, pictures, source, **_given(3))) as encoded:  # type: ignore[arg-type]
            next(encoded)
        assert pictures.reads <= 12


def test_two_batches_at_once_make_what_one_makes(catalogue: Catalogue, engine: Engine) -> None:
    several = offline_engine(engine.bundle, threads=2)
    chunks = [
        list(encode_chunks(one, catalogue.pictures, source, **_given(8)))  # type: ignore[arg-type]
        for one in (engine, several)
        for source in (chunks_of(catalogue.products, 0, 20),)
    ]
    for ours, theirs in zip(*chunks, strict=True):
        assert (ours.start, ours.stop, ours.kept) == (theirs.start, theirs.stop, theirs.kept)
        for batch, other in zip(ours.batches, theirs.batches, strict=True):
            assert (batch.products, batch.served) == (other.products, other.served)
            np.testing.assert_allclose(
                batch.encoded.embeddings, other.encoded.embeddings, atol=1e-5
            )


def test_batches_are_those_of_the_chunk(catalogue: Catalogue, engine: Engine) -> None:
    source = chunks_of(catalogue.products[:10], 0, 6)
    for chunk in encode_chunks(engine, catalogue.pictures, source, **_given(4)):  # type: ignore[arg-type]
        products = catalogue.products[chunk.start : chunk.stop]
        owners = [at for at, one in enumerate(products, chunk.start) for _ in one.images]
        assert [one for batch in chunk.batches for one in batch.products] == owners
        assert [len(batch.served) for batch in chunk.batches[:-1]] == [4] * (len(chunk.batches) - 1)
        assert chunk.kept == list(range(chunk.start, chunk.stop))
        assert chunk.texts is not None
        alone = engine.encode_texts([product.text for product in products])
        np.testing.assert_array_equal(chunk.texts.embeddings, alone.embeddings)


def test_an_error_names_the_picture_and_its_product(catalogue: Catalogue, engine: Engine) -> None:
    product = catalogue.products[7]
    with _Watched(catalogue.pictures.path, product.images[0]) as pictures:
        source = chunks_of(catalogue.products, 0, 4)
        with pytest.raises(RuntimeError, match="the disk is gone") as caught:
            list(encode_chunks(engine, pictures, source, **_given(3)))  # type: ignore[arg-type]
    assert caught.value.__notes__ == [
        f"while reading the picture {product.images[0]!r} of product {product.id!r}"
    ]


@pytest.mark.parametrize("what", ["encode_images", "encode_texts"])
def test_an_error_of_the_model_names_the_products(
    what: str, catalogue: Catalogue, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(engine, what, fail)
    source = chunks_of(catalogue.products[:4], 0, 4)
    with pytest.raises(RuntimeError, match="the device is gone") as caught:
        list(encode_chunks(engine, catalogue.pictures, source, **_given(64)))  # type: ignore[arg-type]
    first, last = catalogue.products[0].id, catalogue.products[3].id
    assert caught.value.__notes__ == [f"while encoding the products {first!r} to {last!r}"]
