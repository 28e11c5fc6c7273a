"""Recall, then rerank: what a search is, without HTTP.

FAISS proposes candidates by the cosine of the recall embeddings; the matcher reads each candidate
together with the query, and its raw logit decides the order. The products' states come from the
snapshot, so a search runs the encoder once and the joint layers once a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.snapshot import Snapshot
from model.bundle import Bundle
from model.engine import Engine
from model.errors import SnapshotError
from model.preprocess import check_text, decode_image
from model.states import QuantisedStates
from service.errors import QueryError
from service.items import first_image_row
from service.matching import match_pairs
from service.records import (
    DEFAULT_CANDIDATES,
    DEFAULT_K,
    Hit,
    MatchResult,
    Pair,
    SearchLimits,
    SearchResult,
    Stopwatch,
)
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Recalled:
    """What FAISS found: rows (of pictures or texts) and the distinct products among them.

    `rows`, `similarities`, `products` [n], best first: `products[i]` is the one `rows[i]` belongs
    to. `order` [m] are the distinct products, and `first` [m] where in `rows` each one begins.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]
    products: NDArray[np.int64]
    order: NDArray[np.int64]
    first: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        rows: NDArray[np.int64],
        similarities: NDArray[np.float32],
        products: NDArray[np.int64],
    ) -> Recalled:
        """Find the distinct products."""
        first = np.sort(np.unique(products, return_index=True)[1])
        return cls(rows, similarities, products, products[first], first)

    def until(self, products: int) -> int:
        """How many rows there are up to the one where the last of `products` products begins."""
        return int(self.first[min(products, len(self.first)) - 1]) + 1


class Searcher:
    """Searches one snapshot with one model. Safe to use from several threads.

    Raises:
        SnapshotError: the snapshot was made by another model.
    """

    def __init__(
        self,
        engine: Engine,
        snapshot: Snapshot,
        limits: SearchLimits = SearchLimits(),  # noqa: B008 (frozen)
    ) -> None:
        if snapshot.model_id != engine.model_id:
            raise SnapshotError(
                f"snapshot {snapshot.name} was made by model {snapshot.model_id}, but the bundle "
                f"{engine.bundle.path} is model {engine.model_id}: build the index again with this "
                "bundle, or use the other one"
            )
        self.engine = engine
        self.snapshot = snapshot
        self.limits = limits

    def search_text(
        self,
        query: str,
        k: int = DEFAULT_K,
        candidates: int = DEFAULT_CANDIDATES,
        rerank: bool = True,
    ) -> SearchResult:
        """Text → the products whose pictures match it best.

        `candidates` counts products. Every picture that the recall puts no later than the first
        one of the last candidate is reranked, so that of a product with several the best decides.
        A `k` above `candidates` is filled up in recall order: there are min(k, products) hits.

        Raises:
            TextError: the query is empty or too long.
            QueryError: `k` or `candidates` is out of range.
        """
        watch = Stopwatch()
        self._check(k, candidates)
        query = check_text(query, self.limits.max_query_characters)
        with watch.stage("encode"):
            encoded = self.engine.encode_texts([query])
        with watch.stage("recall"):
            wanted = max(k, candidates) if rerank else k
            recalled = self._recall_images(encoded.embeddings[0], wanted)
        logits = None
        if rerank:
            with watch.stage("gather"):
                states = self.snapshot.image_states(recalled.rows[: recalled.until(candidates)])
            with watch.stage("rerank"):
                logits = self.engine.match(encoded.states, states)
        hits = self._hits(recalled, k, logits, with_views=True)
        return SearchResult(hits, bool(encoded.truncated[0]), watch.finish())

    def search_image(
        self,
        image: bytes,
        k: int = DEFAULT_K,
        candidates: int = DEFAULT_CANDIDATES,
        rerank: bool = True,
    ) -> SearchResult:
        """An encoded picture → the products whose texts match it best; as `search_text`.

        Raises:
            ImageError: the picture cannot be taken.
            QueryError: `k` or `candidates` is out of range.
        """
        watch = Stopwatch()
        self._check(k, candidates)
        with watch.stage("decode"):
            pixels = decode_image(image, self.engine.image_size, self.limits.image)
        with watch.stage("encode"):
            encoded = self.engine.encode_images(pixels[None])
        return self._search_texts(
            encoded.states, encoded.embeddings[0], k, candidates, rerank, watch
        )

    def search_item(
        self,
        item_id: str,
        k: int = DEFAULT_K,
        candidates: int = DEFAULT_CANDIDATES,
        rerank: bool = True,
    ) -> SearchResult:
        """The first picture of a product → the products whose texts match it best.

        The stored states are used and nothing is encoded. The product itself is not left out: its
        own text is the right answer, and where it ranks tells how good the model is.

        Raises:
            QueryError: there is no such item, or `k` or `candidates` is out of range.
        """
        watch = Stopwatch()
        self._check(k, candidates)
        rows = np.array([first_image_row(self.snapshot, item_id, "item_id")], dtype=np.int64)
        with watch.stage("gather"):
            states = self.snapshot.image_states(rows)
            embedding = self.snapshot.image_embeddings(rows)[0]
        return self._search_texts(states, embedding, k, candidates, rerank, watch)

    def match(self, pairs: Sequence[Pair]) -> MatchResult:
        """Score pairs of a text and a picture; see `match_pairs`."""
        return match_pairs(self.engine, self.snapshot, self.limits, pairs)

    def _check(self, k: int, candidates: int) -> None:
        for name, value, most in (
            ("k", k, self.limits.max_k),
            ("candidates", candidates, self.limits.max_candidates),
        ):
            if not 1 <= value <= most:
                raise QueryError(f"{name} is {value}: choose 1 to {most:,}", field=name)

    def _recall_images(self, embedding: NDArray[np.float32], products: int) -> Recalled:
        """Pictures by similarity, so many that they belong to at least `products` products."""
        product_of = self.snapshot.product_of_image
        products = min(products, len(self.snapshot))
        # As many as make that many products on average; more where views of one come together.
        wanted = -(-products * len(product_of) // len(self.snapshot))
        while True:
            rows, similarities = self.snapshot.search_images(embedding, wanted)
            recalled = Recalled.of(rows, similarities, product_of[rows].astype(np.int64))
            if len(recalled.order) >= products or wanted >= len(product_of):
                return recalled
            wanted = min(len(product_of), 2 * wanted)

    def _search_texts(
        self,
        states: QuantisedStates,
        embedding: NDArray[np.float32],
        k: int,
        candidates: int,
        rerank: bool,
        watch: Stopwatch,
    ) -> SearchResult:
        """A picture's states [1, P, H] and embedding [E] → products by their texts."""
        with watch.stage("recall"):
            wanted = min(max(k, candidates) if rerank else k, len(self.snapshot))
            rows, similarities = self.snapshot.search_texts(embedding, wanted)
            recalled = Recalled.of(rows, similarities, rows)  # a text's row is its product's
        logits = None
        if rerank:
            with watch.stage("gather"):
                texts = self.snapshot.text_states(rows[:candidates])
            with watch.stage("rerank"):
                logits = self.engine.match(texts, states)
        hits = self._hits(recalled, k, logits, with_views=False)
        return SearchResult(hits, False, watch.finish())

    def _hits(
        self,
        recalled: Recalled,
        k: int,
        logits: NDArray[np.float32] | None,
        *,
        with_views: bool,
    ) -> list[Hit]:
        """The first k products: those with logits by the best of theirs, then in recall order.

        Args:
            recalled: what the recall found.
            k: how many hits.
            logits: [r] of the first r rows of `recalled`, None when nothing was reranked.
            with_views: the rows are pictures.
        """
        scores = np.empty(0, dtype=np.float32) if logits is None else logits
        probabilities = self.engine.probability(scores)
        best: dict[int, int] = {}  # product → its row with the highest logit, the earlier if equal
        for at, product in enumerate(recalled.products[: len(scores)].tolist()):
            if product not in best or scores[at] > scores[best[product]]:
                best[product] = at
        # `best` is in recall order and the sort is stable: equal logits stay in that order.
        ranked = sorted(best, key=lambda product: -scores[best[product]])
        ranked += [product for product in recalled.order.tolist() if product not in best]
        places = {product: place for place, product in enumerate(recalled.order.tolist())}
        hits = []
        for rank, product in enumerate(ranked[:k], start=1):
            first = int(recalled.first[places[product]])
            at = best.get(product, first)
            image_row = int(recalled.rows[at])
            reranked = product in best
            hits.append(
                Hit(
                    rank=rank,
                    item=self.snapshot.item(product),
                    score=float(scores[at]) if reranked else None,
                    probability=float(probabilities[at]) if reranked else None,
                    recall_score=float(recalled.similarities[first]),
                    recall_rank=places[product] + 1,
                    view=image_row - self.snapshot.image_rows(product)[0] if with_views else None,
                )
            )
        return hits


def open_searcher(settings: Settings) -> Searcher:
    """Open the bundle and the current snapshot that the settings name.

    Raises:
        BundleError, SnapshotError: one is missing, damaged, or not made for the other.
        FashionBertError: the device is not there.
    """
    bundle = Bundle.open(settings.bundle)
    snapshot = Snapshot.open(
        settings.snapshots, model_id=bundle.model_id, verify=settings.verify_snapshot
    )
    engine = Engine(bundle, threads=settings.threads, device=settings.device)
    return Searcher(engine, snapshot, settings.search_limits)
