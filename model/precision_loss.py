"""What a precision costs against fp32: in the numbers, and in ranks on a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from model.bundle import Bundle
from model.engine import Engine
from model.evaluate import DIRECTIONS, evaluate
from model.evaluate_bundle import encode_catalogue
from model.graphs import Graphs
from model.product import Catalogue
from model.samples import Samples


@dataclass(frozen=True, slots=True)
class Errors:
    """Differences from fp32 over `samples` products, each graph fed what came before it.

    `state_*` and `embedding_*` are 1 − cosine of a vector in fp32 and the same vector here;
    `logit_*` absolute differences; `logit_spread` the standard deviation of the logits in fp32,
    to compare those with.
    """

    samples: int
    state_mean: float
    state_max: float
    embedding_mean: float
    embedding_max: float
    logit_mean: float
    logit_max: float
    logit_spread: float


def graph_errors(reference: Graphs, other: Graphs, samples: Samples) -> Errors:
    """Run both over the same products, from texts and pixels to logits."""
    wanted, found = reference.trace(samples), other.trace(samples)
    state = _distances(wanted.states, found.states)
    embedding = _distances(wanted.embeddings, found.embeddings)
    apart = np.abs(found.logits - wanted.logits)
    return Errors(
        samples=len(samples),
        state_mean=float(state.mean()),
        state_max=float(state.max()),
        embedding_mean=float(embedding.mean()) if embedding.size else 0.0,
        embedding_max=float(embedding.max(initial=0.0)),
        logit_mean=float(apart.mean()),
        logit_max=float(apart.max()),
        logit_spread=float(wanted.logits.std()),
    )


def _distances(ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
    """1 − cosine of the rows of two [M, H]."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(all="ignore"):  # what overflowed gives NaN, which is refused
        lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
        distances: NDArray[Any] = 1 - (ours * theirs).sum(-1) / lengths
    return distances


class RankTrial:
    """Rank@1 of bundles on one catalogue, by the sampled protocol, as the two stages are served.

    Args:
        reference: the fp32 bundle.
        catalogue: of products that the model was not trained on.
        group_by: the attribute that negatives are drawn from the same value of.
        queries: each way; the same ones for every bundle.
        progress: shows bars.
    """

    def __init__(
        self,
        reference: Bundle,
        catalogue: Catalogue,
        *,
        group_by: str | None = None,
        queries: int = 1000,
        progress: Progress | None = None,
    ) -> None:
        self._reference = reference
        self._catalogue = catalogue
        self._group_by = group_by
        self._queries = queries
        self._progress = progress

    def rank1(self, bundle: Bundle) -> dict[str, Any]:
        """Percent by direction, and how many queries they are of."""
        engine = Engine(bundle)
        encoded = encode_catalogue(
            engine, self._catalogue, group_by=self._group_by, progress=self._progress
        )
        result = evaluate(
            encoded,
            engine.match,
            queries=self._queries,
            rerank_all=False,
            full=False,
            progress=self._progress,
        ).figures
        stage = "two_stage" if engine.recall_size else "rerank"
        found: dict[str, Any] = {"queries": result["queries"]}
        for direction in DIRECTIONS:
            found[direction] = result[direction]["sampled"][stage]["rank1"]
        return found

    @cached_property
    def _wanted(self) -> dict[str, Any]:
        return self.rank1(self._reference)

    def loss(self, bundle: Bundle) -> dict[str, Any]:
        """Rank@1 in fp32, here, and what is lost, in points; by direction."""
        found = self.rank1(bundle)
        return {
            "queries": found["queries"],
            "rank1": {
                direction: {
                    "fp32": self._wanted[direction],
                    "here": found[direction],
                    "loss": round(self._wanted[direction] - found[direction], 2),
                }
                for direction in DIRECTIONS
            },
        }
