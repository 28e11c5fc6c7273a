"""A catalogue's products, encoded chunk by chunk while the pictures that follow are decoded.

What is ahead of the model is bounded: one batch of decoded pictures, and where it makes several
passes at a time a second one that it has begun, so that no core waits for a batch to end. A batch
is always made of the same pictures, whoever encodes it, because an int8 model may round differently
in other company.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from index.images import Prepared, prepare_image
from index.parts import Skipped
from model.engine import EncodedImages, EncodedTexts, Engine
from model.errors import CatalogueError, ImageError
from model.pictures import Pictures
from model.preprocess import ImageLimits
from model.product import Product


@dataclass(frozen=True, slots=True)
class Chunk:
    """Products that follow one another in the catalogue, the first at position `start`."""

    start: int
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    images: tuple[tuple[str, ...], ...]

    @property
    def stop(self) -> int:
        """The position after the last."""
        return self.start + len(self.ids)


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """Pictures encoded together: the position of each one's product, and its bytes as served."""

    products: list[int]
    encoded: EncodedImages
    served: list[bytes]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a batch: pictures that cannot be read, and the others, if there are any."""

    skipped: list[Skipped]
    good: EncodedBatch | None


@dataclass(slots=True)
class EncodedChunk:
    """A chunk of which the model has seen all.

    `kept` are the positions of the products with a picture that can be decoded, `texts` theirs in
    this order; None if there are none.
    """

    start: int
    stop: int
    kept: list[int] = field(default_factory=list)
    batches: list[EncodedBatch] = field(default_factory=list)
    texts: EncodedTexts | None = None
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _View:
    """One picture: the position of its product in the catalogue, the product's id, its name."""

    product: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class _Batch:
    chunk: Chunk
    views: list[_View]
    is_last: bool


def chunks_of(products: Sequence[Product], start: int, size: int) -> Iterator[Chunk]:
    """The products from position `start` on, so many a chunk."""
    for at in range(start, len(products), size):
        part = products[at : at + size]
        yield Chunk(
            at,
            tuple(product.id for product in part),
            tuple(product.text for product in part),
            tuple(product.images for product in part),
        )


def encode_chunks(
    engine: Engine,
    pictures: Pictures,
    chunks: Iterable[Chunk],
    *,
    batch_size: int,
    limits: ImageLimits,
    threads: int,
    advance: Callable[[int], None] | None = None,
) -> Generator[EncodedChunk, None, None]:
    """Encode chunks in their order; the batches that follow are decoded meanwhile.

    Args:
        engine: the model.
        pictures: where the products' are.
        chunks: taken as far as the batch ahead reaches.
        batch_size: pictures that are decoded ahead and encoded together.
        limits: what a picture may weigh.
        threads: that decode.
        advance: told the position of the last product of each batch.

    Raises:
        Exception: whatever fails but a picture that cannot be read, with a note that names the
            picture, or the products of the pass.
    """

    def prepare(view: _View) -> Prepared | Skipped:
        try:
            return prepare_image(pictures.read(view.name), engine.image_size, limits)
        except (CatalogueError, ImageError) as error:
            return Skipped(view.product, view.name, str(error))
        except Exception as error:
            error.add_note(f"while reading the picture {view.name!r} of product {view.id!r}")
            raise

    at_once = 1 if engine.encoder_workers == 1 else 2
    decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    encoders = ThreadPoolExecutor(at_once, thread_name_prefix="encode")
    try:
        encoded: EncodedChunk | None = None
        ready = _ahead(decoders, prepare, _batches(chunks, batch_size))
        for batch, outcome in _encoding(encoders, engine, at_once, ready):
            if encoded is None:
                encoded = EncodedChunk(batch.chunk.start, batch.chunk.stop)
            _add_pictures(outcome, encoded)
            if advance is not None:
                advance(batch.views[-1].product)
            if batch.is_last:
                with _naming(batch.chunk.ids[0], batch.chunk.ids[-1]):
                    _add_texts(engine, batch.chunk, encoded)
                yield encoded
                encoded = None
    finally:
        for pool in (decoders, encoders):
            pool.shutdown(cancel_futures=True)


def _batches(chunks: Iterable[Chunk], size: int) -> Iterator[_Batch]:
    """The pictures of each chunk, in batches of at most `size`."""
    for chunk in chunks:
        views = [
            _View(position, id, name)
            for position, (id, names) in enumerate(
                zip(chunk.ids, chunk.images, strict=True), chunk.start
            )
            for name in names
        ]
        for at in range(0, len(views), size):
            yield _Batch(chunk, views[at : at + size], at + size >= len(views))


def _ahead(
    pool: ThreadPoolExecutor,
    prepare: Callable[[_View], Prepared | Skipped],
    batches: Iterable[_Batch],
) -> Iterator[tuple[_Batch, list[Prepared | Skipped]]]:
    """Each batch with what became of its pictures; the next is prepared while one is used."""
    pending: deque[tuple[_Batch, list[Future[Prepared | Skipped]]]] = deque()
    for batch in batches:
        pending.append((batch, [pool.submit(prepare, view) for view in batch.views]))
        if len(pending) > 1:
            yield _finished(*pending.popleft())
    while pending:
        yield _finished(*pending.popleft())


def _finished(
    batch: _Batch, futures: list[Future[Prepared | Skipped]]
) -> tuple[_Batch, list[Prepared | Skipped]]:
    return batch, [future.result() for future in futures]


def _encoding(
    pool: ThreadPoolExecutor,
    engine: Engine,
    at_once: int,
    batches: Iterable[tuple[_Batch, list[Prepared | Skipped]]],
) -> Iterator[tuple[_Batch, _Outcome]]:
    """Each batch encoded, in order; so many are under way at once."""
    pending: deque[tuple[_Batch, Future[_Outcome]]] = deque()
    for batch, prepared in batches:
        pending.append((batch, pool.submit(_encode, engine, batch.views, prepared)))
        if len(pending) == at_once:
            batch, outcome = pending.popleft()
            yield batch, outcome.result()
    for batch, outcome in pending:
        yield batch, outcome.result()


def _encode(engine: Engine, views: list[_View], prepared: list[Prepared | Skipped]) -> _Outcome:
    skipped: list[Skipped] = []
    good: list[Prepared] = []
    products: list[int] = []
    for view, one in zip(views, prepared, strict=True):
        if isinstance(one, Skipped):
            skipped.append(one)
        else:
            good.append(one)
            products.append(view.product)
    if not good:
        return _Outcome(skipped, None)
    with _naming(views[0].id, views[-1].id):
        images = engine.encode_images(np.stack([each.pixels for each in good]))
    return _Outcome(skipped, EncodedBatch(products, images, [each.served for each in good]))


def _add_pictures(outcome: _Outcome, encoded: EncodedChunk) -> None:
    encoded.skipped += outcome.skipped
    if outcome.good is not None:
        encoded.batches.append(outcome.good)
        # A product is kept with its first good picture, so none is left empty.
        for product in outcome.good.products:
            if product not in encoded.kept[-1:]:
                encoded.kept.append(product)


def _add_texts(engine: Engine, chunk: Chunk, encoded: EncodedChunk) -> None:
    if encoded.kept:
        texts = [chunk.texts[position - chunk.start] for position in encoded.kept]
        encoded.texts = engine.encode_texts(texts)


@contextmanager
def _naming(first: str, last: str) -> Iterator[None]:
    """Let an error say which products it hit."""
    try:
        yield
    except Exception as error:
        error.add_note(f"while encoding the products {first!r} to {last!r}")
        raise
