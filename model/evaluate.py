"""How well a model ranks unseen products: recall alone, and with the cross-encoder on top.

`model.evaluate_bundle` and `model.evaluate_checkpoint` encode the products and score the pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from model.direction import Direction
from model.errors import CatalogueError
from model.product import Catalogue
from model.ranking import (
    CANDIDATES,
    NEGATIVES,
    number_by_value,
    pair_figures,
    ranks_among,
    ranks_in_full,
    recall_places,
    sampled_candidates,
    sound_pools,
    stage_figures,
    two_stage_scores,
)
from model.states import QuantisedStates

Match = Callable[[QuantisedStates, QuantisedStates], NDArray[np.float32]]

#: Keys of an evaluation's figures, in the order of its samples.
DIRECTIONS = ("text_to_image", "image_to_text")


@dataclass(frozen=True, slots=True)
class EncodedCatalogue:
    """N products and their M ≥ N pictures, encoded.

    Attributes:
        texts: states [N, T, H].
        text_embeddings: float32 [N, E]; E is 0 of a model without recall head.
        images: states [M, P, H], a product's views together.
        image_embeddings: float32 [M, E].
        first_image: int64 [N + 1], product i's pictures are first_image[i]…first_image[i + 1] − 1.
        text_numbers: int64 [N], equal where the texts are.
        groups: int64 [N], the sub-category; all 0 without one.
    """

    texts: QuantisedStates
    text_embeddings: NDArray[np.float32]
    images: QuantisedStates
    image_embeddings: NDArray[np.float32]
    first_image: NDArray[np.int64]
    text_numbers: NDArray[np.int64]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.text_numbers)

    @property
    def has_recall(self) -> bool:
        """Whether the model has a recall head."""
        return self.text_embeddings.size > 0


def groups_of(catalogue: Catalogue, group_by: str | None) -> NDArray[np.int64]:
    """The sub-category number of each product, from the attribute `group_by`."""
    if group_by is None:
        return np.zeros(len(catalogue.products), dtype=np.int64)
    return number_by_value([product.attributes.get(group_by) for product in catalogue.products])


def first_images(catalogue: Catalogue) -> NDArray[np.int64]:
    """int64 [N + 1]: where each product's pictures begin, in catalogue order."""
    views = [len(product.images) for product in catalogue.products]
    return np.concatenate([[0], np.cumsum(views)]).astype(np.int64)


def directions(encoded: EncodedCatalogue, match: Match) -> tuple[Direction, Direction]:
    """Text → image, where a product answers by its best picture; image → text, by the first one."""
    texts, images, first = encoded.texts, encoded.images, encoded.first_image

    def match_text(query: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return match(texts[query : query + 1], images[rows])

    def match_image(query: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        image = int(first[query])
        return match(texts[rows], images[image : image + 1])

    own_text = np.arange(len(encoded) + 1, dtype=np.int64)
    first_pictures = encoded.image_embeddings[first[:-1]]
    return (
        Direction(encoded.text_embeddings, encoded.image_embeddings, first, match_text),
        Direction(first_pictures, encoded.text_embeddings, own_text, match_image),
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """Scores of one direction's sampled candidates, [Q, C], the right one in column 0.

    `scored` bool [Q, C] says where `logits` hold anything; without a recall head `recalled` holds
    nothing.
    """

    recalled: NDArray[np.float32]
    logits: NDArray[np.float32]
    scored: NDArray[np.bool_]
    has_recall: bool = True


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`figures` as JSON has them; `samples`, one a direction, for the calibration.

    Of the figures `candidates` is how many the two stages rerank, and `sound_pools` the check of
    what was drawn (`model.ranking.sound_pools`), which must read 100.
    """

    figures: dict[str, Any]
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class _Protocol:
    """What is asked and what is scored: the arguments of `evaluate`, and what was drawn."""

    queries: NDArray[np.int64]
    pools: NDArray[np.int64]
    text_numbers: NDArray[np.int64]
    candidates: int
    rerank_all: bool
    recall_in_full: bool
    rerank_in_full: bool


def evaluate(
    encoded: EncodedCatalogue,
    match: Match,
    *,
    queries: int = 1000,
    negatives: int = NEGATIVES,
    candidates: int = CANDIDATES,
    rerank_all: bool = True,
    full: bool = True,
    rerank_in_full: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Both directions, sampled and full, for recall, rerank over all, and two stages.

    Without a recall head there is only the rerank, and `full` figures only with `rerank_in_full`.

    Args:
        encoded: the catalogue, all of it unseen in training.
        match: scores pairs of states.
        queries: at most this many, drawn at random; all products if there are fewer.
        negatives: of the sampled protocol.
        candidates: how many the two-stage search reranks.
        rerank_all: score every sampled pair with the cross-encoder; without, only the recall's
            first `candidates`, which is what two stages need. Always, without a recall head.
        full: also rank each query against the whole catalogue.
        rerank_in_full: there too, score every pair with the cross-encoder, N + M a query.
        seed: of the queries and the negatives.
        progress: shows a bar.

    Raises:
        CatalogueError: every product has the same text, so no answer is a wrong one.
    """
    if not encoded.text_numbers.any():
        raise CatalogueError(
            "every product has the same text, so none can be told from another: evaluate on a feed "
            "with at least two different texts"
        )
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(encoded))[:queries]).astype(np.int64)
    pools = sampled_candidates(
        encoded.text_numbers, encoded.groups, chosen, negatives=negatives, seed=seed
    )
    protocol = _Protocol(
        queries=chosen,
        pools=pools,
        text_numbers=encoded.text_numbers,
        candidates=candidates,
        rerank_all=rerank_all or not encoded.has_recall,
        recall_in_full=full and encoded.has_recall,
        rerank_in_full=full and rerank_in_full,
    )
    figures: dict[str, Any] = {"queries": len(chosen), "products": len(encoded)}
    if encoded.has_recall:
        figures["candidates"] = candidates
    figures["sound_pools"] = sound_pools(pools, chosen, encoded.text_numbers)
    samples = []
    task = None
    if progress is not None:
        task = progress.add_task("ranking", total=len(DIRECTIONS) * len(chosen))

    def advance() -> None:
        if progress is not None and task is not None:
            progress.advance(task)

    for name, direction in zip(DIRECTIONS, directions(encoded, match), strict=True):
        sample, ranks = _rank_all(direction, protocol, advance)
        sample = replace(sample, has_recall=encoded.has_recall)
        samples.append(sample)
        figures[name] = {"sampled": sampled_figures(sample, candidates)}
        if ranks:
            figures[name]["full"] = stage_figures(ranks, len(encoded))
    if protocol.rerank_all:
        figures["matching"] = matching_figures(samples)
    return Evaluation(figures, tuple(samples))


def _rank_all(
    direction: Direction, protocol: _Protocol, advance: Callable[[], None]
) -> tuple[Sample, dict[str, NDArray[np.int64]]]:
    """The sampled scores, and each query's rank in the whole catalogue, [Q] by stage."""
    recalled = np.zeros(protocol.pools.shape, dtype=np.float32)
    logits = np.zeros_like(recalled)
    scored = np.zeros(recalled.shape, dtype=np.bool_)
    ranks: dict[str, list[int]] = {}
    for row, ranked in enumerate(_rank(direction, protocol)):
        recalled[row], logits[row], scored[row], in_full = ranked
        for stage, rank in in_full.items():
            ranks.setdefault(stage, []).append(rank)
        advance()
    return Sample(recalled, logits, scored), {
        stage: np.array(found, dtype=np.int64) for stage, found in ranks.items()
    }


_Ranked = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], dict[str, int]]


def _rank(direction: Direction, protocol: _Protocol) -> Iterator[_Ranked]:
    """For each query: a row of the `Sample`, and its rank in the whole catalogue by stage."""
    numbers, candidates = protocol.text_numbers, protocol.candidates
    for query, pool in zip(protocol.queries.tolist(), protocol.pools, strict=True):
        similarities = direction.similarities(query)
        recall = direction.best(similarities)
        scored = recall_places(recall[None, pool])[0] < candidates
        if protocol.rerank_all:
            scored[:] = True
        # At equal similarity what is right comes last.
        reranked = np.zeros(len(numbers), dtype=np.bool_)
        reranked[np.lexsort((numbers == numbers[query], -recall))[:candidates]] = True

        matched = reranked & protocol.recall_in_full
        matched[pool[scored]] = True
        answers = direction.logits(query, matched | protocol.rerank_in_full)
        logits = direction.best(answers)

        in_full: dict[str, NDArray[np.floating[Any]]] = {}
        if protocol.recall_in_full:
            # As served: of a product's pictures only those that the recall put no later than the
            # best one of the last candidate.
            reached = np.where(similarities >= recall[reranked].min(), answers, -np.inf)
            staged = two_stage_scores(recall, direction.best(reached), reranked)
            in_full = {"recall": recall, "two_stage": staged}
        if protocol.rerank_in_full:
            in_full["rerank"] = logits
        own = np.array([query])
        yield (
            recall[pool],
            np.where(scored, logits[pool], np.float32(0)),
            scored,
            {
                stage: int(ranks_in_full(scores[None], own, numbers)[0])
                for stage, scores in in_full.items()
            },
        )


def sampled_figures(sample: Sample, candidates: int) -> dict[str, Any]:
    """Figures of one direction's sampled protocol, by stage.

    Args:
        sample: at least the recall's first `candidates` of each row scored.
        candidates: how many the two-stage search reranks.
    """
    ranks = {}
    if sample.has_recall:
        staged = recall_places(sample.recalled) < candidates
        ranks["recall"] = ranks_among(sample.recalled)
        ranks["two_stage"] = ranks_among(two_stage_scores(sample.recalled, sample.logits, staged))
    if sample.scored.all():
        ranks["rerank"] = ranks_among(sample.logits)
    return stage_figures(ranks, sample.recalled.shape[1])


def matching_figures(samples: Sequence[Sample]) -> dict[str, float]:
    """Accuracy and AUC of telling a true pair from the first negative drawn for it.

    Both directions ask of the same products, whose true pairs are mostly the same ones.
    """
    positive = np.stack([sample.logits[:, 0] for sample in samples], axis=1)
    negative = np.stack([sample.logits[:, 1] for sample in samples], axis=1)
    return pair_figures(positive, negative)
