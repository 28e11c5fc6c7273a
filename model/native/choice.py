"""Whether the compiled matcher runs a bundle, or ONNX Runtime does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from model.native.library import NotCompiledError
from model.native.matcher import NativeMatcher
from model.native.reading import UnknownGraphError
from model.states import quantise

#: Most that logits may differ from ONNX Runtime's, as a share of their spread. int8 rounds at the
#: same places in both, but sums in another order fall on the other side of a step now and then:
#: 0.01 to 0.03 is seen, and 1e-5 in fp32. A graph that was misread gives other numbers altogether.
TOLERANCE = {"int8": 0.2, "fp32": 2e-3}
_PAIRS, _TOKENS = 12, 12

_logger = logging.getLogger("fashionbert.engine")


def open_native(file: Path, session: Any, patches: int) -> NativeMatcher | None:
    """The compiled matcher of a graph, or None; the log says why.

    Args:
        file: the graph.
        session: ONNX Runtime's, which it is compared with.
        patches: of a picture, P.
    """
    try:
        matcher = NativeMatcher(file)
    except NotCompiledError as error:
        _logger.info("pairs are scored by ONNX Runtime, not by the compiled matcher: %s", error)
        return None
    except UnknownGraphError as error:
        _logger.info("the compiled matcher does not know %s: %s", file, error)
        return None
    difference = compare(matcher, session, patches)
    if not difference <= TOLERANCE[matcher.precision]:  # also refuses NaN
        _logger.warning(
            "the compiled matcher's logits for %s differ from ONNX Runtime's by %.2g of their "
            "spread, so ONNX Runtime scores pairs: please report this with the bundle",
            file,
            difference,
        )
        return None
    return matcher


def compare(matcher: NativeMatcher, session: Any, patches: int) -> float:
    """The largest difference of logits from ONNX Runtime's, as a share of their spread.

    Both get the same drawn states: texts of several lengths with a picture each, and one of them
    against all of the others.
    """
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, _TOKENS + 1, _PAIRS)
    lengths[0] = _TOKENS
    mask = (np.arange(_TOKENS) < lengths[:, None]).astype(np.int64)
    shape = (_PAIRS, _TOKENS, matcher.hidden_size)
    texts = quantise(rng.standard_normal(shape).astype(np.float32), mask)
    drawn = rng.standard_normal((_PAIRS, patches, matcher.hidden_size))
    images = quantise(drawn.astype(np.float32))
    worst = 0.0
    for some, others in ((texts, images), (texts[:1], images), (texts, images[:1])):
        feeds = {
            "text_states": some.values,
            "text_scales": some.scales,
            "image_states": others.values,
            "image_scales": others.scales,
        }
        (expected,) = session.run(["logit"], feeds)
        counts = np.broadcast_to(some.lengths, (_PAIRS,))
        found = matcher.match(some, others, counts, np.arange(_PAIRS))
        spread = float(expected.std()) or 1.0
        worst = max(worst, float(np.abs(found - expected).max()) / spread)
        if np.isnan(found).any():
            return float("nan")
    return worst
