"""Scores for given pairs of a text and a picture: the paper's matching task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index.live import AnySnapshot
from model.engine import Engine
from model.preprocess import check_text, decode_image
from model.states import QuantisedStates
from service.callers import caller
from service.errors import QueryError, blaming
from service.items import first_image_row, row_of
from service.records import MatchResult, Pair, SearchLimits, Stopwatch
from service.reranking import score

#: One side of a pair: it came with the request (True) or from the snapshot, and its number there.
Place = tuple[bool, int]


def match_pairs(
    engine: Engine, snapshot: AnySnapshot, limits: SearchLimits, pairs: Sequence[Pair]
) -> MatchResult:
    """Score pairs; a text or a picture that recurs is encoded once.

    Raises:
        TextError, ImageError, QueryError: of a pair, which the message names.
        AbandonedError: the caller has hung up.
        OutOfMemoryError: as of `Engine.match`.
    """
    watch = Stopwatch()
    if not 1 <= len(pairs) <= limits.max_pairs:
        raise QueryError(
            f"there are {len(pairs):,} pairs: send 1 to {limits.max_pairs:,}", field="pairs"
        )
    # Both sides are looked at before anything is computed: a bad last pair costs little.
    texts, stored_texts, text_places = _texts(snapshot, limits, pairs)
    pixels, stored_images, image_places = _images(engine, snapshot, limits, pairs, watch)

    still_wanted = caller().check
    text_states: list[QuantisedStates] = []
    image_states: list[QuantisedStates] = []
    truncated = np.zeros(len(texts) + len(stored_texts), dtype=np.bool_)
    with watch.stage("encode"):
        if texts:
            encoded = engine.encode_texts(texts, still_wanted)
            text_states.append(encoded.states)
            truncated[: len(texts)] = encoded.truncated
        if pixels:
            image_states.append(engine.encode_images(np.stack(pixels), still_wanted).states)
    with watch.stage("gather"):
        if stored_texts:
            text_states.append(snapshot.text_states(np.array(stored_texts)))
        if stored_images:
            image_states.append(snapshot.image_states(np.array(stored_images)))
        text_rows = _rows(text_places, len(texts))
        text_batch, image_batch = _stack(text_states), _stack(image_states)
        # One text against many pictures, or the reverse, costs less: see `Engine.match`.
        alone = len(image_batch) == 1 < len(text_batch)
        if len(text_batch) > 1:
            text_batch = text_batch[text_rows]
        if not alone:
            image_batch = image_batch[_rows(image_places, len(pixels))]
    with watch.stage("rerank"):
        logits = score(engine, text_batch, image_batch)
    return MatchResult(logits, engine.probability(logits), truncated[text_rows], watch.finish())


def _texts(
    snapshot: AnySnapshot, limits: SearchLimits, pairs: Sequence[Pair]
) -> tuple[list[str], list[int], list[Place]]:
    """The distinct texts, the rows of the stored ones, and which of them each pair means."""
    given: dict[str, int] = {}
    stored: dict[int, int] = {}
    places = []
    for number, pair in enumerate(pairs):
        if pair.text is not None:
            with blaming(f"pairs.{number}.text", f"pair {number}: "):
                text = check_text(pair.text, limits.max_query_characters)
            places.append((True, given.setdefault(text, len(given))))
        else:
            item_id = _named(pair.text_item_id, number, "text")
            row = row_of(snapshot, item_id, f"pairs.{number}.text_item_id")
            places.append((False, stored.setdefault(row, len(stored))))
    return list(given), list(stored), places


def _images(
    engine: Engine,
    snapshot: AnySnapshot,
    limits: SearchLimits,
    pairs: Sequence[Pair],
    watch: Stopwatch,
) -> tuple[list[NDArray[np.uint8]], list[int], list[Place]]:
    """The distinct pictures decoded, the rows of the stored ones, and which each pair means."""
    given: dict[bytes, int] = {}
    stored: dict[int, int] = {}
    pixels: list[NDArray[np.uint8]] = []
    places = []
    for number, pair in enumerate(pairs):
        if pair.image is not None:
            if pair.image not in given:
                caller().check()
                blame = blaming(f"pairs.{number}.image", f"pair {number}: ")
                with watch.stage("decode"), blame:
                    pixels.append(decode_image(pair.image, engine.image_size, limits.image))
            places.append((True, given.setdefault(pair.image, len(given))))
        else:
            item_id = _named(pair.image_item_id, number, "image")
            row = first_image_row(snapshot, item_id, f"pairs.{number}.image_item_id")
            places.append((False, stored.setdefault(row, len(stored))))
    return pixels, list(stored), places


def _named(item_id: str | None, number: int, side: str) -> str:
    if item_id is None:
        raise QueryError(
            f"pair {number} has no {side}: give {side} or {side}_item_id",
            field=f"pairs.{number}.{side}",
        )
    return item_id


def _rows(places: Sequence[Place], given: int) -> NDArray[np.int64]:
    """Where each pair's side stands when the stored ones follow the given ones."""
    return np.array([at if came else given + at for came, at in places], dtype=np.int64)


def _stack(parts: Sequence[QuantisedStates]) -> QuantisedStates:
    """Batches one after the other, each padded with scale 0 to the longest."""
    longest = max(part.values.shape[1] for part in parts)
    values, scales = [], []
    for part in parts:
        missing = longest - part.values.shape[1]
        values.append(np.pad(part.values, ((0, 0), (0, missing), (0, 0))))
        scales.append(np.pad(part.scales, ((0, 0), (0, missing))))
    return QuantisedStates(np.concatenate(values), np.concatenate(scales))
