"""Recall, then rerank: what a search is, without HTTP.

FAISS proposes candidates by the cosine of the recall embeddings; the matcher reads each candidate
together with the query, and its raw logit decides the order. The products' states come from the
snapshot, so a search runs the encoder once and the joint layers once a candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from index.live import AnySnapshot
from model.engine import EncodedTexts, Engine
from model.errors import SnapshotError
from model.preprocess import check_text, decode_image
from model.resident import NOTHING, Tables
from model.states import QuantisedStates
from model.tables import States, rows_of
from service.callers import caller
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
from service.reranking import Reranked, nothing_reranked, rerank_within
from service.selection import Selected, Selector


class Searcher:
    """Searches one version of a catalogue with one model. Safe to use from several threads.

    Args:
        engine: the model.
        snapshot: what is searched, made by that model.
        limits: of requests.
        tables: what of the snapshot is on the device; the engine takes rows of it then.

    Raises:
        BundleError: the model has no recall head.
        SnapshotError: the snapshot was made by another model.
    """

    def __init__(
        self,
        engine: Engine,
        snapshot: AnySnapshot,
        limits: SearchLimits = SearchLimits(),  # noqa: B008 (frozen)
        tables: Tables = NOTHING,
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
        self.tables = tables
        self._selector = Selector(snapshot, limits)

    def search_text(
        self,
        query: str,
        k: int = DEFAULT_K,
        candidates: int = DEFAULT_CANDIDATES,
        rerank: bool = True,
        selection: Selection = EVERYTHING,
        *,
        deadline: float | None = None,
        encoded: EncodedTexts | None = None,
    ) -> SearchResult:
        """Text → the products whose pictures match it best.

        `candidates` counts products. Every picture that the recall puts no later than the first
        one of the last candidate is reranked, so that of a product with several the best decides.
        A `k` above `candidates` is filled up in recall order: there are min(k, products) hits,
        of the products that `selection` leaves.
        At `deadline` (of `time.perf_counter`) the reranker stops: it begins with the best of the
        recall, and those it did not reach follow in recall order.
        `encoded` is the query as an earlier result has it: it is not encoded again.

        Raises:
            TextError: the query is empty or too long.
            QueryError: `k` or `candidates` is out of range, or `selection` cannot be taken.
            AbandonedError: the caller has hung up.
        """
        watch = Stopwatch()
        self._check(k, candidates)
        query = check_text(query, self.limits.max_query_characters)
        selected = self._selector.apply(selection, watch)
        with watch.stage("encode"):
            if encoded is None:
                encoded = self.engine.encode_texts([query], caller().check)
        with watch.stage("recall"):
            wanted = max(k, candidates) if rerank else k
            recalled = recall_images(self.snapshot, encoded.embeddings[0], wanted, selected.among)
        reranked = nothing_reranked()
        if rerank and len(recalled.rows):
            with watch.stage("gather"):
                rows = recalled.rows[: recalled.until(candidates)]
                states = rows_of(self.tables.images, rows, self.snapshot.image_states)
            with watch.stage("rerank"):
                reranked = self._rerank(encoded.states, states, deadline)
        result = self._result(recalled, k, reranked, selected, watch, with_views=True)
        return replace(result, truncated=bool(encoded.truncated[0]), encoded=encoded)

    def search_image(
        self,
        image: bytes,
        k: int = DEFAULT_K,
        candidates: int = DEFAULT_CANDIDATES,
        rerank: bool = True,
        selection: Selection = EVERYTHING,
        *,
        deadline: float | None = None,
    ) -> SearchResult:
        """An encoded picture → the products whose texts match it best; as `search_text`.

        Raises:
            ImageError: the picture cannot be taken.
            QueryError: as of `search_text`.
        """
        watch = Stopwatch()
        self._check(k, candidates)
        selected = self._selector.apply(selection, watch)
        with watch.stage("decode"):
            pixels = decode_image(image, self.engine.image_size, self.limits.image)
        with watch.stage("encode"):
            encoded = self.engine.encode_images(pixels[None], caller().check)
        return self._search_texts(
            encoded.states, encoded.embeddings[0], k, candidates, rerank, selected, watch, deadline
        )

    def search_item(
        self,
        item_id: str,
        k: int = DEFAULT_K,
        candidates: int = DEFAULT_CANDIDATES,
        rerank: bool = True,
        selection: Selection = EVERYTHING,
        *,
        deadline: float | None = None,
    ) -> SearchResult:
        """The first picture of a product → the products whose texts match it best.

        The stored states are used and nothing is encoded. The product itself is not left out: its
        own text is the right answer, and where it ranks tells how good the model is.

        Raises:
            QueryError: there is no such item, or as of `search_text`.
        """
        watch = Stopwatch()
        self._check(k, candidates)
        selected = self._selector.apply(selection, watch)
        rows = np.array([first_image_row(self.snapshot, item_id, "item_id")], dtype=np.int64)
        with watch.stage("gather"):
            states = self.snapshot.image_states(rows)
            embedding = self.snapshot.image_embeddings(rows)[0]
        return self._search_texts(
            states, embedding, k, candidates, rerank, selected, watch, deadline
        )

    def _rerank(self, texts: States, images: States, deadline: float | None) -> Reranked:
        return rerank_within(self.engine, texts, images, self.limits.rerank_seconds, deadline)

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
        deadline: float | None,
    ) -> SearchResult:
        """A picture's states [1, P, H] and embedding [E] → products by their texts."""
        with watch.stage("recall"):
            wanted = max(k, candidates) if rerank else k
            recalled = recall_texts(self.snapshot, embedding, wanted, selected.among)
        reranked = nothing_reranked()
        if rerank and len(recalled.rows):
            with watch.stage("gather"):
                rows = recalled.rows[:candidates]
                texts = rows_of(self.tables.texts, rows, self.snapshot.text_states)
            with watch.stage("rerank"):
                reranked = self._rerank(texts, states, deadline)
        return self._result(recalled, k, reranked, selected, watch, with_views=False)

    def _result(
        self,
        recalled: Recalled,
        k: int,
        reranked: Reranked,
        selected: Selected,
        watch: Stopwatch,
        *,
        with_views: bool,
    ) -> SearchResult:
        """What a search answers; `with_views` where the rows of `recalled` are pictures."""
        best = _best(recalled, reranked)
        return SearchResult(
            hits=self._hits(recalled, k, reranked.logits.tolist(), best, with_views=with_views),
            truncated=False,  # a picture never is; `search_text` says it of its query
            timings=watch.finish(),
            degraded=reranked.degraded,
            pairs=int(np.count_nonzero(reranked.done)),
            matching=selected.matching,
            facets=selected.facets,
            candidates=sum(first < len(reranked.done) for first in recalled.first.values()),
            reranked=len(best),
        )

    def _hits(
        self,
        recalled: Recalled,
        k: int,
        scores: Sequence[float],
        best: Mapping[int, int],
        *,
        with_views: bool,
    ) -> list[Hit]:
        """The first k products: those that were reranked by their best logit, then in recall order.

        Args:
            recalled: what the recall found.
            k: how many hits.
            scores: logits [r] of the first r rows of `recalled`.
            best: the row of each product that was reranked, as `_best` has it.
            with_views: the rows are pictures.
        """
        # `best` is in recall order and the sort is stable: equal logits stay in that order.
        ranked = sorted(best, key=lambda product: -scores[best[product]])[:k]
        logits = np.array([scores[best[product]] for product in ranked], dtype=np.float32)
        probabilities = self.engine.probability(logits).tolist()
        ranked += [product for product in recalled.first if product not in best]
        recall_ranks = {product: rank for rank, product in enumerate(recalled.first, start=1)}
        hits = []
        for rank, product in enumerate(ranked[:k], start=1):
            first = recalled.first[product]
            at = best.get(product, first)
            view = None
            if with_views:
                view = int(recalled.rows[at]) - self.snapshot.image_rows(product)[0]
            hits.append(
                Hit(
                    rank=rank,
                    item=self.snapshot.item(product),
                    score=scores[at] if product in best else None,
                    probability=probabilities[rank - 1] if product in best else None,
                    recall_score=float(recalled.similarities[first]),
                    recall_rank=recall_ranks[product],
                    view=view,
                )
            )
        return hits


def _best(recalled: Recalled, reranked: Reranked) -> dict[int, int]:
    """Of each product that was reranked the row with the highest logit, the earlier if equal."""
    best: dict[int, int] = {}
    scores, products = reranked.logits.tolist(), recalled.products.tolist()
    for at in np.flatnonzero(reranked.done).tolist():
        product = products[at]
        if product not in best or scores[at] > scores[best[product]]:
            best[product] = at
    return best
