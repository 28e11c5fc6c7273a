"""The matcher over the candidates, within a budget of time."""

from __future__ import annotations

import logging
import time

import numpy as np
from numpy.typing import NDArray

from model.engine import Engine
from model.states import QuantisedStates

FAILED = "reranker_failed"
OVER_BUDGET = "reranker_over_budget"

_CHUNK = 16  # pairs between two looks at the clock: a multiple of the engine's own batch

_logger = logging.getLogger("fashionbert.search")


def rerank(
    engine: Engine, texts: QuantisedStates, images: QuantisedStates, seconds: float
) -> tuple[NDArray[np.float32] | None, str | None]:
    """Raw logits float32 [B] as `Engine.match` gives them, or None and the reason.

    The reason is `FAILED`, which is logged, or `OVER_BUDGET`: a search goes on without.

    Args:
        engine: the model.
        texts: [B, T, H], or batch 1.
        images: [B, P, H], or batch 1.
        seconds: the budget; it is looked at between chunks, so one chunk may go over it.
    """
    deadline = time.perf_counter() + seconds
    pairs = max(len(texts), len(images))
    lengths = np.count_nonzero(texts.scales, axis=1)
    order = np.argsort(np.broadcast_to(lengths, (pairs,)), kind="stable")
    logits = np.empty(pairs, dtype=np.float32)
    try:
        for start in range(0, pairs, _CHUNK):
            if time.perf_counter() > deadline:
                _logger.warning("reranking %d pairs took more than %g s", pairs, seconds)
                return None, OVER_BUDGET
            rows = order[start : start + _CHUNK]
            logits[rows] = engine.match(
                texts if len(texts) == 1 else texts[rows],
                images if len(images) == 1 else images[rows],
            )
    except Exception:  # whatever the runtime throws: out of memory, a device that is gone
        _logger.exception("the reranker failed")
        return None, FAILED
    return logits, None
