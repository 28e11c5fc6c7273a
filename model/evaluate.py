"""How well a model ranks unseen products: recall alone, and with the cross-encoder on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from model.catalogue import Catalogue
from model.engine import Engine
from model.errors import CatalogueError
from model.preprocess import decode_image
from model.ranking import (
    NEGATIVES,
    number_by_value,
    rank_figures,
    ranks_among,
    ranks_in_full,
    sampled_candidates,
)
from model.states import QuantisedStates

Match = Callable[[QuantisedStates, QuantisedStates], NDArray[np.float32]]

#: Keys of an evaluation's figures, in the order of its samples.
DIRECTIONS = ("text_to_image", "image_to_text")

#: Recall candidates that the two-stage search reranks.
CANDIDATES = 64


@dataclass(frozen=True, slots=True)
class EncodedCatalogue:
    """N products and their M ≥ N pictures, encoded.

    Attributes:
        texts: states [N, T, H].
        text_embeddings: float32 [N, E].
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


def groups_of(catalogue: Catalogue, group_by: str | None) -> NDArray[np.int64]:
    """The sub-category number of each product, from the attribute `group_by`."""
    if group_by is None:
        return np.zeros(len(catalogue.products), dtype=np.int64)
    return number_by_value([product.attributes.get(group_by) for product in catalogue.products])


def first_images(catalogue: Catalogue) -> NDArray[np.int64]:
    """int64 [N + 1]: where each product's pictures begin, in catalogue order."""
    views = [len(product.images) for product in catalogue.products]
    return np.concatenate([[0], np.cumsum(views)]).astype(np.int64)


def encode_catalogue(
    engine: Engine,
    catalogue: Catalogue,
    *,
    group_by: str | None = None,
    progress: Progress | None = None,
) -> EncodedCatalogue:
    """Encode a catalogue, small enough for memory, through ONNX Runtime."""
    texts = [product.text for product in catalogue.products]
    names = [name for product in catalogue.products for name in product.images]
    encoded = engine.encode_texts(texts)
    values, scales, embeddings = [], [], []
    task = progress.add_task("encoding", total=len(names)) if progress is not None else None
    for start in range(0, len(names), 32):
        batch = names[start : start + 32]
        pixels = np.stack(
            [decode_image(catalogue.pictures.read(name), engine.image_size) for name in batch]
        )
        images = engine.encode_images(pixels)
        values.append(images.states.values)
        scales.append(images.states.scales)
        embeddings.append(images.embeddings)
        if progress is not None and task is not None:
            progress.advance(task, len(batch))
    return EncodedCatalogue(
        texts=encoded.states,
        text_embeddings=encoded.embeddings,
        images=QuantisedStates(np.concatenate(values), np.concatenate(scales)),
        image_embeddings=np.concatenate(embeddings),
        first_image=first_images(catalogue),
        text_numbers=number_by_value(texts),
        groups=groups_of(catalogue, group_by),
    )


def recall_scores(encoded: EncodedCatalogue) -> NDArray[np.float32]:
    """Recall similarity of every text with every product by its best picture: [N, N].

    Row i is text i against all products; column i, for the other direction, is product i's best
    picture against all texts.
    """
    similarities = encoded.text_embeddings @ encoded.image_embeddings.T
    best: NDArray[np.float32] = np.maximum.reduceat(similarities, encoded.first_image[:-1], axis=1)
    return best


def _picture_scores(encoded: EncodedCatalogue) -> NDArray[np.float32]:
    """Each product's first picture against all texts: [N, N]."""
    first = encoded.image_embeddings[encoded.first_image[:-1]]
    scores: NDArray[np.float32] = first @ encoded.text_embeddings.T
    return scores


def match_text(
    encoded: EncodedCatalogue, match: Match, text: int, products: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Match logits of one text with products, each by its best picture."""
    starts, stops = encoded.first_image[products], encoded.first_image[products + 1]
    rows = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
    logits = match(encoded.texts[text : text + 1], encoded.images[rows])
    best: NDArray[np.float32] = np.maximum.reduceat(
        logits, np.concatenate([[0], np.cumsum(stops - starts)[:-1]])
    )
    return best


def match_image(
    encoded: EncodedCatalogue, match: Match, product: int, texts: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Match logits of a product's first picture with texts."""
    image = int(encoded.first_image[product])
    return match(encoded.texts[texts], encoded.images[image : image + 1])


def _above(
    recall: NDArray[np.float32], logits: NDArray[np.float32], reranked: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """One score that sorts as the two-stage search does: the reranked first, then by recall.

    In float64, so that lifting the logits does not round two of them to a tie.
    """
    lift = 1 + float(np.abs(logits).max(initial=0.0)) + float(np.abs(recall).max(initial=0.0))
    scores: NDArray[np.float64] = np.where(reranked, logits.astype(np.float64) + 2 * lift, recall)
    return scores


@dataclass(frozen=True, slots=True)
class Sample:
    """Scores of one direction's sampled candidates, [Q, C], the right one in column 0.

    `scored` bool [Q, C] says where `logits` hold anything.
    """

    recalled: NDArray[np.float32]
    logits: NDArray[np.float32]
    scored: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`figures` as JSON has them; `samples`, one a direction, for the calibration."""

    figures: dict[str, Any]
    samples: tuple[Sample, ...]


def evaluate(
    encoded: EncodedCatalogue,
    match: Match,
    *,
    queries: int = 1000,
    negatives: int = NEGATIVES,
    candidates: int = CANDIDATES,
    rerank_all: bool = True,
    full: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Both directions, sampled and full, for recall, rerank over all, and two stages.

    Args:
        encoded: the catalogue, all of it unseen in training.
        match: scores pairs of states.
        queries: at most this many, drawn at random; all products if there are fewer.
        negatives: of the sampled protocol.
        candidates: how many the two-stage search reranks.
        rerank_all: score every sampled pair with the cross-encoder; without, only the recall's
            first `candidates`, which is what two stages need.
        full: also rank each query against the whole catalogue (recall and two stages).
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
    scorers = (recall_scores(encoded), match_text), (_picture_scores(encoded), match_image)
    figures: dict[str, Any] = {"queries": len(chosen), "products": len(encoded)}
    samples = []
    total = len(DIRECTIONS) * len(chosen) * (2 if full else 1)
    task = progress.add_task("ranking", total=total) if progress is not None else None

    def advance() -> None:
        if progress is not None and task is not None:
            progress.advance(task)

    for direction, (recall, match_one) in zip(DIRECTIONS, scorers, strict=True):
        recalled = np.take_along_axis(recall[chosen], pools, axis=1)
        scored = _ranked_first(recalled) < candidates
        if rerank_all:
            scored[:] = True
        logits = np.zeros_like(recalled)
        for row, query in enumerate(chosen):
            columns = np.flatnonzero(scored[row])
            logits[row, columns] = match_one(encoded, match, int(query), pools[row, columns])
            advance()
        samples.append(Sample(recalled, logits, scored))
        result: dict[str, Any] = {"sampled": sampled_figures(samples[-1], candidates)}
        if full:
            both = recall[chosen].astype(np.float64)
            for row, query in enumerate(chosen):
                top = np.argsort(-both[row], kind="stable")[:candidates].astype(np.int64)
                scores = np.zeros_like(recall[query])
                scores[top] = match_one(encoded, match, int(query), top)
                reranked = np.zeros(len(encoded), dtype=np.bool_)
                reranked[top] = True
                both[row] = _above(recall[query], scores, reranked)
                advance()
            numbers = encoded.text_numbers
            result["full"] = {
                name: rank_figures(ranks_in_full(scores, chosen, numbers), len(encoded)).as_dict()
                for name, scores in (("recall", recall[chosen]), ("two_stage", both))
            }
        figures[direction] = result
    if rerank_all:
        figures["matching"] = matching_figures(samples)
    return Evaluation(figures, tuple(samples))


def sampled_figures(sample: Sample, candidates: int) -> dict[str, Any]:
    """Figures of one direction's sampled protocol, by stage.

    Args:
        sample: at least the recall's first `candidates` of each row scored.
        candidates: how many the two-stage search reranks.
    """
    staged = _ranked_first(sample.recalled) < candidates
    ranks = {
        "recall": ranks_among(sample.recalled),
        "two_stage": ranks_among(_above(sample.recalled, sample.logits, staged)),
    }
    if sample.scored.all():
        ranks["rerank"] = ranks_among(sample.logits)
    width = sample.recalled.shape[1]
    return {stage: rank_figures(found, width).as_dict() for stage, found in ranks.items()}


def matching_figures(samples: Sequence[Sample]) -> dict[str, float]:
    """Accuracy and AUC in percent of telling a true pair from the first negative drawn for it."""
    positive = np.concatenate([sample.logits[:, 0] for sample in samples])
    negative = np.concatenate([sample.logits[:, 1] for sample in samples])
    return {
        "accuracy": round(50 * float((positive > 0).mean() + (negative <= 0).mean()), 2),
        "auc": round(100 * area_under_curve(positive, negative), 2),
    }


def _ranked_first(recalled: NDArray[np.float32]) -> NDArray[np.int64]:
    """Place of each candidate in its row; at equal similarity the right one, column 0, is last."""
    backwards = np.argsort(-recalled[:, ::-1], axis=1, kind="stable")
    places = np.empty_like(backwards)
    np.put_along_axis(places, backwards, np.arange(recalled.shape[1])[None, :], axis=1)
    return np.ascontiguousarray(places[:, ::-1])


def area_under_curve(positives: NDArray[np.float32], negatives: NDArray[np.float32]) -> float:
    """Chance that a positive's logit is above a negative's, ties counted half."""
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left")
    not_above = np.searchsorted(ordered, positives, side="right")
    return float((below + not_above).mean() / 2 / len(negatives))


def table_rows(figures: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    """One direction's rows: protocol, stage, R@1, its interval, R@5, R@10, mean rank, R@last."""
    return [
        (
            f"{protocol} {f['candidates']:,}",
            stage.replace("_", " "),
            f"{f['rank1']:.1f}",
            f"{f['low']:.1f}–{f['high']:.1f}",
            f"{f['rank5']:.1f}",
            f"{f['rank10']:.1f}",
            f"{f['mean_rank']:.1f}",
            f"{f['rank_last']:.0f}",
        )
        for protocol, stages in figures.items()
        for stage, f in stages.items()
    ]
