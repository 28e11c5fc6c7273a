"""Recall, then rerank: what a search is, without HTTP.

FAISS proposes candidates by the cosine of the recall embeddings; the matcher reads each candidate
together with the query, and its raw logit decides the order. The products' states come from the
snapshot, so a search runs the encoder once and the joint layers once a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index.snapshot import Snapshot
from model.bundle import Bundle
from model.engine import EncodedTexts, Engine
from model.errors import SnapshotError
from model.preprocess import check_text, decode_image
from model.states import QuantisedStates
from service.errors import QueryError
from service.items import first_image_row
from service.matching import match_pairs
from service.recall import Recalled, recall_images, recall_texts
from service.records import (
    DEFAULT_CANDIDATES,
    DEFAULT_K,
    EVERYTHING,
    Hit,
    MatchResult,
    Pair,
    SearchLimits,
    SearchResult,
    Selection,
    Stopwatch,
)
from service.reranking import rerank as rerank_within
from service.selection import Selected, Selections
from service.settings import Settings


class Searcher:
    """Searches one snapshot with one model. Safe to use from several threads.

    Raises:
        BundleError: the model has no recall head.
        SnapshotError: the snapshot was made by another model.
    """

    def __init__(
        self,
        engine: Engine,
        snapshot: Snapshot,
        limits: SearchLimits = SearchLimits(),  # noqa: B008 (frozen)
    ) -> None:
        engine.require_recall()
        if snapshot.model_id != engine.model_id:
            raise SnapshotError(
                f"snapshot {snapshot.name} was made by model {snapshot.model_id}, but the bundle "
                f"{engine.bundle.path} is model {engine.model_id}: build the index again with this "
                "bundle, or use the other one"
            )
        self.engine = engine
        self.snapshot = snapshot
        self.limits = limits
        self._selections = Selections(snapshot, limits)

    def search_text(
        self,
        query: str,
        k: int = DEFAULT_K,
        candidates: int = DEFAULT_CANDIDATES,
        rerank: bool = True,
        selection: Selection = EVERYTHING,
        *,
        encoded: EncodedTexts | None = None,
    ) -> SearchResult:
        """Text → the products whose pictures match it best.

        `candidates` counts products. Every picture that the recall puts no later than the first
        one of the last candidate is reranked, so that of a product with several the best decides.
        A `k` above `candidates` is filled up in recall order: there are min(k, products) hits,
        of the products that `selection` leaves.
        `encoded` is the query as an earlier result has it: it is not encoded again.

        Raises:
            TextError: the query is empty or too long.
            QueryError: `k` or `candidates` is out of range, or `selection` cannot be taken.
        """
        watch = Stopwatch()
        self._check(k, candidates)
        query = check_text(query, self.limits.max_query_characters)
        selected = self._selections.apply(selection, watch)
        with watch.stage("encode"):
            if encoded is None:
                encoded = self.engine.encode_texts([query])
        with watch.stage("recall"):
            wanted = max(k, candidates) if rerank else k
            recalled = recall_images(self.snapshot, encoded.embeddings[0], wanted, selected.among)
        logits, degraded, pairs = None, None, 0
        if rerank and len(recalled.rows):
            with watch.stage("gather"):
                states = self.snapshot.image_states(recalled.rows[: recalled.until(candidates)])
            with watch.stage("rerank"):
                logits, degraded = self._rerank(encoded.states, states)
            pairs = len(states)
        hits = self._hits(recalled, k, logits, with_views=True)
        truncated = bool(encoded.truncated[0])
        return SearchResult(
            hits,
            truncated,
            watch.finish(),
            degraded,
            encoded,
            pairs,
            selected.matching,
            selected.facets,
        )

    def search_image(
        self,
        image: bytes,
        k: int = DEFAULT_K,
        candidates: int = DEFAULT_CANDIDATES,
        rerank: bool = True,
        selection: Selection = EVERYTHING,
    ) -> SearchResult:
        """An encoded picture → the products whose texts match it best; as `search_text`.

        Raises:
            ImageError: the picture cannot be taken.
            QueryError: as of `search_text`.
        """
        watch = Stopwatch()
        self._check(k, candidates)
        selected = self._selections.apply(selection, watch)
        with watch.stage("decode"):
            pixels = decode_image(image, self.engine.image_size, self.limits.image)
        with watch.stage("encode"):
            encoded = self.engine.encode_images(pixels[None])
        return self._search_texts(
            encoded.states, encoded.embeddings[0], k, candidates, rerank, selected, watch
        )

    def search_item(
        self,
        item_id: str,
        k: int = DEFAULT_K,
        candidates: int = DEFAULT_CANDIDATES,
        rerank: bool = True,
        selection: Selection = EVERYTHING,
    ) -> SearchResult:
        """The first picture of a product → the products whose texts match it best.

        The stored states are used and nothing is encoded. The product itself is not left out: its
        own text is the right answer, and where it ranks tells how good the model is.

        Raises:
            QueryError: there is no such item, or as of `search_text`.
        """
        watch = Stopwatch()
        self._check(k, candidates)
        selected = self._selections.apply(selection, watch)
        rows = np.array([first_image_row(self.snapshot, item_id, "item_id")], dtype=np.int64)
        with watch.stage("gather"):
            states = self.snapshot.image_states(rows)
            embedding = self.snapshot.image_embeddings(rows)[0]
        return self._search_texts(states, embedding, k, candidates, rerank, selected, watch)

    def _rerank(
        self, texts: QuantisedStates, images: QuantisedStates
    ) -> tuple[NDArray[np.float32] | None, str | None]:
        return rerank_within(self.engine, texts, images, self.limits.rerank_seconds)

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

    def _search_texts(
        self,
        states: QuantisedStates,
        embedding: NDArray[np.float32],
        k: int,
        candidates: int,
        rerank: bool,
        selected: Selected,
        watch: Stopwatch,
    ) -> SearchResult:
        """A picture's states [1, P, H] and embedding [E] → products by their texts."""
        with watch.stage("recall"):
            wanted = max(k, candidates) if rerank else k
            recalled = recall_texts(self.snapshot, embedding, wanted, selected.among)
        logits, degraded, pairs = None, None, 0
        if rerank and len(recalled.rows):
            with watch.stage("gather"):
                texts = self.snapshot.text_states(recalled.rows[:candidates])
            with watch.stage("rerank"):
                logits, degraded = self._rerank(texts, states)
            pairs = len(texts)
        hits = self._hits(recalled, k, logits, with_views=False)
        return SearchResult(
            hits,
            False,
            watch.finish(),
            degraded,
            pairs=pairs,
            matching=selected.matching,
            facets=selected.facets,
        )

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
