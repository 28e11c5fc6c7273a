"""The matcher over the candidates, the best first, within a budget of time."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.engine import Engine
from model.passes import Limits
from model.tables import States
from service.callers import AbandonedError, caller

FAILED = "reranker_failed"
OVER_BUDGET = "reranker_over_budget"

#: So many pairs at a time, best first, are sorted by length among themselves: the fewer, the more
#: of the best are done when the time is up; the more, the less of the passes is padding.
WINDOW = 32
LARGE_WINDOW = 256  # where only the service's own limit is there, which is hardly ever reached

_logger = logging.getLogger("fashionbert.search")


@dataclass(frozen=True, slots=True)
class Reranked:
    """Raw logits float32 [B] where `done`, bool [B]; and why the rest is not done.

    `degraded` is `FAILED`, which is logged, or `OVER_BUDGET`, which is the service's own limit; it
    is None where the caller's own budget was spent, which is what was asked for.
    """

    logits: NDArray[np.float32]
    done: NDArray[np.bool_]
    degraded: str | None = None


def nothing_reranked() -> Reranked:
    """Where the matcher was not asked."""
    return Reranked(np.empty(0, dtype=np.float32), np.empty(0, dtype=np.bool_))


def score(engine: Engine, texts: States, images: States) -> NDArray[np.float32]:
    """`Engine.match`, but not to the end for a caller who hangs up.

    Raises:
        AbandonedError: the caller has hung up.
        OutOfMemoryError: as of `Engine.match`.
    """
    who = caller()
    logits, _ = engine.match_within(texts, images, Limits(cancelled=who.has_left))
    if who.gone:
        raise AbandonedError("the caller has hung up: its pairs were dropped")
    return logits


def rerank_within(
    engine: Engine,
    texts: States,
    images: States,
    seconds: float,
    deadline: float | None = None,
) -> Reranked:
    """Logits as `Engine.match` gives them, of the first pairs first, as time allows.

    Args:
        engine: the model.
        texts: [B, T, H], or batch 1.
        images: [B, P, H], or batch 1.
        seconds: the service's limit.
        deadline: the caller's, of `time.perf_counter`.

    Raises:
        AbandonedError: the caller has hung up.
    """
    pairs = max(len(texts), len(images))
    last = time.perf_counter() + seconds
    budgeted = deadline is not None and deadline <= last
    who = caller()
    limits = Limits(deadline if budgeted and deadline is not None else last, who.has_left)
    try:
        logits, done = engine.match_within(
            texts, images, limits, window=WINDOW if budgeted else LARGE_WINDOW
        )
    except Exception:  # whatever the runtime throws: out of memory, a device that is gone
        _logger.exception("the reranker failed")
        return Reranked(np.zeros(pairs, np.float32), np.zeros(pairs, np.bool_), FAILED)
    if who.gone:
        raise AbandonedError("the caller has hung up: its search was dropped")
    if done.all() or budgeted:
        return Reranked(logits, done)
    _logger.warning("reranking %d pairs took more than %g s", pairs, seconds)
    return Reranked(logits, done, OVER_BUDGET)
