"""Whether the compiled matcher runs a bundle, or ONNX Runtime does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.native.library import NotCompiledError
from model.native.matcher import NativeMatcher
from model.native.reading import UnknownGraphError
from model.states import QuantisedStates, quantise

#: Most that logits may differ from ONNX Runtime's, as a multiple of what its own change by when the
#: scales of all states change by a millionth. In int8 sums in another order fall on the other side
#: of a step now and then, as they do after such a change: 0.5 to 2 is seen (docs/EXPERIMENTS.md). A
#: graph that was misread gives other numbers altogether, or nearly always.
TOLERANCE = 2.5
#: As a share of the logits' spread: what fp32 may differ by in any case.
LEAST = 1e-4
#: What the scales are changed by, one after the other until the difference is explained. Of a small
#: network one change may move no value over a step, while the other order of sums moves some.
_CHANGES = (1.000001, 0.999999, 1.000002, 0.999998)
_PAIRS, _TOKENS = 48, 12

#: Texts and pictures of some pairs.
_Way = tuple[QuantisedStates, QuantisedStates]

_logger = logging.getLogger("fashionbert.engine")


def open_native(file: Path, session: Any, patches: int, workers: int = 1) -> NativeMatcher | None:
    """The compiled matcher of a graph, or None; the log says why.

    Args:
        file: the graph.
        session: ONNX Runtime's, which it is compared with.
        patches: of a picture, P.
        workers: passes of the session that run at a time, at best.
    """
    try:
        matcher = NativeMatcher(file)
        difference = compare(matcher, session, patches, workers)
    except NotCompiledError as error:
        _logger.info("pairs are scored by ONNX Runtime, not by the compiled matcher: %s", error)
        return None
    except UnknownGraphError as error:
        _logger.info("the compiled matcher does not know %s: %s", file, error)
        return None
    except Exception:  # whatever it is, ONNX Runtime can do the work
        _logger.warning("the compiled matcher cannot read %s", file, exc_info=True)
        return None
    if not difference <= TOLERANCE:  # also refuses NaN
        _logger.warning(
            "the compiled matcher's logits for %s differ from ONNX Runtime's by %.2g times what "
            "rounding explains, so ONNX Runtime scores pairs: please report this with the bundle",
            file,
            difference,
        )
        return None
    return matcher


def compare(matcher: NativeMatcher, session: Any, patches: int, workers: int = 1) -> float:
    """How much logits differ from ONNX Runtime's, root mean square, as a multiple of what rounding
    explains; NaN where either gives one.

    Both get the same drawn states: texts of several lengths with a picture each, one of them with
    all pictures, and one picture with all of them.
    """
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, _TOKENS + 1, _PAIRS)
    lengths[0] = _TOKENS
    mask = (np.arange(_TOKENS) < lengths[:, None]).astype(np.int64)
    shape = (_PAIRS, _TOKENS, matcher.hidden_size)
    texts = quantise(rng.standard_normal(shape).astype(np.float32), mask)
    drawn = rng.standard_normal((_PAIRS, patches, matcher.hidden_size))
    images = quantise(drawn.astype(np.float32))
    ways = ((texts, images), (texts[:1], images), (texts, images[:1]))

    def reference(factor: float) -> Callable[[_Way], NDArray[np.float32]]:
        return lambda way: _logits(session, *way, factor)

    def compiled(way: _Way) -> NDArray[np.float32]:
        some, others = way
        lengths = np.broadcast_to(some.lengths, (_PAIRS,))
        return matcher.match(some, others, lengths, np.arange(_PAIRS))

    with ThreadPoolExecutor(workers) as pool:  # a service's start waits for these
        passes = [pool.map(one, ways) for one in (reference(1.0), reference(_CHANGES[0]), compiled)]
        expected, changed, found = (list(one) for one in passes)
        spread = max(float(np.std(logits)) for logits in expected)
        difference = _distance(found, expected)
        explained = max(LEAST * spread, 1e-6, _distance(changed, expected))
        for factor in _CHANGES[1:]:
            if difference <= TOLERANCE * explained:
                break
            changed = list(pool.map(reference(factor), ways))
            explained = max(explained, _distance(changed, expected))
    return difference / explained


def _logits(
    session: Any, texts: QuantisedStates, images: QuantisedStates, factor: float
) -> NDArray[np.float32]:
    feeds = {
        "text_states": texts.values,
        "text_scales": texts.scales * np.float32(factor),
        "image_states": images.values,
        "image_scales": images.scales * np.float32(factor),
    }
    logits: NDArray[np.float32] = session.run(["logit"], feeds)[0]
    return logits


def _distance(some: list[NDArray[np.float32]], others: list[NDArray[np.float32]]) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean((np.concatenate(some) - np.concatenate(others)) ** 2)))
