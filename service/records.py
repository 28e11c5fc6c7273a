"""What goes into a search and what comes out of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.preprocess import DEFAULT_LIMITS, ImageLimits
from model.ranking import CANDIDATES

if TYPE_CHECKING:  # they bring FAISS and ONNX Runtime, for which no --help should wait
    from index.facets import Facet
    from index.items import Item
    from model.engine import EncodedTexts

DEFAULT_K = 10
DEFAULT_CANDIDATES = CANDIDATES
DEFAULT_FACET_VALUES = 10


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """What one request may ask for."""

    max_k: int = 1000
    max_candidates: int = 1000
    max_pairs: int = 256
    max_query_characters: int = 1000
    rerank_seconds: float = 10.0
    max_facets: int = 16
    max_facet_values: int = 100
    image: ImageLimits = DEFAULT_LIMITS


@dataclass(frozen=True, slots=True)
class Selection:
    """Which products a search may find, and what is counted of them.

    `filters` is a filter as JSON, see `index.filters`; None for all products. `facets` are
    attributes whose values are counted, over all products that the filter leaves, whatever the
    query; `max_facet_values` the most of them that are listed.
    """

    filters: Mapping[str, object] | None = None
    facets: tuple[str, ...] = ()
    max_facet_values: int = DEFAULT_FACET_VALUES


EVERYTHING = Selection()


@dataclass(frozen=True, slots=True)
class Hit:
    """One product of an answer.

    `rank` counts from 1. `score` is the raw match logit, the ranking key, and `probability` its
    calibrated form; both are None where the matcher did not look: with `rerank=False`, beyond the
    candidates, and where the time was up or it failed. `recall_score` is the cosine of the
    embeddings, `recall_rank` (from 1) the product's place in that order. `view` is the picture that
    matched best, None in a search by picture, where texts are matched.
    """

    rank: int
    item: Item
    score: float | None
    probability: float | None
    recall_score: float
    recall_rank: int
    view: int | None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The hits, whether the query was cut to what the model reads, and milliseconds by stage.

    Stages: `filter`, `facets`, `decode` (a picture's bytes), `encode`, `recall`, `gather` (states
    from the snapshot), `rerank`, `total`; a stage that did not happen is absent. `degraded` says
    why fewer were reranked than a request asked for. `encoded` is the query text, to search with
    again; `pairs` how many the matcher scored, which belong to `reranked` of `candidates` products.
    `matching` is the number of products that the filter leaves, and `facets` are counted over them.
    """

    hits: list[Hit]
    truncated: bool
    timings: dict[str, float]
    degraded: str | None = None
    encoded: EncodedTexts | None = None
    pairs: int = 0
    matching: int = 0
    facets: dict[str, Facet] = field(default_factory=dict)
    candidates: int = 0
    reranked: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """A text and a picture to score, each given itself or as an item's: exactly one of each two.

    An item's picture is its first.
    """

    text: str | None = None
    text_item_id: str | None = None
    image: bytes | None = None
    image_item_id: str | None = None


@dataclass(frozen=True, slots=True)
class MatchResult:
    """Raw logits and probabilities float32 [B], texts that were cut bool [B], and timings."""

    scores: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    truncated: NDArray[np.bool_]
    timings: dict[str, float]


@dataclass(slots=True)
class Stopwatch:
    """Milliseconds by stage; a stage that is entered twice adds up."""

    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a `with` block."""
        start = time.perf_counter()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + 1000 * (time.perf_counter() - start)

    def finish(self) -> dict[str, float]:
        """The stages and `total`, the time since the watch was made."""
        total = 1000 * (time.perf_counter() - self.started)
        return {name: round(spent, 3) for name, spent in (*self.stages.items(), ("total", total))}
