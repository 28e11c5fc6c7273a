"""What keeping states in 8 bits costs: a bundle's ranks with such states and with fp32 ones.

    python -m benchmarks.state_precision val.csv --text "{title}" --group-by group

Both go through one ONNX Runtime session of the bundle's matcher, which takes fp32 here, so that
nothing but the rounding of the states differs. What they have in common is the recall, which does
not read states.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from model import engine as engine_module
from model.bundle import Bundle
from model.catalogue import read_catalogue
from model.engine import Engine
from model.evaluate import DIRECTIONS, EncodedCatalogue, Evaluation, Sample, evaluate
from model.evaluate_bundle import encode_catalogue
from model.pretrained import pretrained
from model.ranking import (
    CANDIDATES,
    rank1_difference,
    ranks_among,
    recall_places,
    two_stage_scores,
)
from model.states import QuantisedStates, quantise

STATES = ("text_states", "image_states")


@contextmanager
def _recorded() -> Iterator[list[NDArray[np.float32]]]:
    """What the engine rounds, in its order."""
    seen: list[NDArray[np.float32]] = []

    def note(states: NDArray[np.float32], mask: NDArray[np.int64] | None = None) -> QuantisedStates:
        seen.append(states)
        return quantise(states, mask)

    plain, engine_module.quantise = engine_module.quantise, note  # type: ignore[attr-defined]
    try:
        yield seen
    finally:
        engine_module.quantise = plain  # type: ignore[attr-defined]


def _as_floats(rounded: QuantisedStates, exact: list[NDArray[np.float32]]) -> Any:
    """States with scales of 1, or 0 where there is padding."""
    values = np.zeros(rounded.values.shape, dtype=np.float32)
    row = 0
    for part in exact:
        values[row : row + len(part), : part.shape[1]] = part
        row += len(part)
    there = (rounded.scales > 0).astype(np.float32)
    values *= there[..., None]
    # Apart by half a step at most: these are the states that were rounded, in the same order.
    step = np.maximum(rounded.scales, np.float32(1e-6))[..., None]
    assert row == len(values)
    assert np.all(np.abs(values - rounded.dequantise()) <= 0.51 * step)
    return QuantisedStates(values, there)  # type: ignore[arg-type]


def encoded_both_ways(engine: Engine, feed: Any, group_by: str | None) -> tuple[Any, Any]:
    """A catalogue with states in 8 bits and with what they were rounded from."""
    with _recorded() as seen:
        rounded = encode_catalogue(engine, feed, group_by=group_by)
    texts, row = 0, 0
    while row < len(rounded):  # texts are encoded before pictures
        row += len(seen[texts])
        texts += 1
    exact = replace(
        rounded,
        texts=_as_floats(rounded.texts, seen[:texts]),
        images=_as_floats(rounded.images, seen[texts:]),
    )
    return rounded, exact


class FloatMatcher:
    """A bundle's matcher, whose states come as fp32 whatever they were rounded to."""

    def __init__(self, bundle: Bundle) -> None:
        graph = onnx.load(bundle.path / "matcher.onnx")
        for value in graph.graph.input:
            if value.name in STATES:  # cast to fp32 first thing, which then does nothing
                value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        self._session: Any = ort.InferenceSession(graph.SerializeToString())

    def __call__(self, texts: QuantisedStates, images: QuantisedStates) -> NDArray[np.float32]:
        """Match logits of pairs; either side may have batch 1."""
        longest = int(np.count_nonzero(texts.scales, axis=1).max())
        logits: NDArray[np.float32] = self._session.run(
            ["logit"],
            {
                "text_states": texts.values[:, :longest].astype(np.float32),
                "text_scales": texts.scales[:, :longest],
                "image_states": images.values.astype(np.float32),
                "image_scales": images.scales,
            },
        )[0]
        return logits


def _ranks(sample: Sample) -> NDArray[np.int64]:
    staged = recall_places(sample.recalled) < CANDIDATES
    return ranks_among(two_stage_scores(sample.recalled, sample.logits, staged))


def compared(rounded: Evaluation, exact: Evaluation) -> dict[str, Any]:
    """By direction: sampled Rank@1 of two stages, and of 8 bits over fp32 of the same queries."""
    found: dict[str, Any] = {}
    for way, few, full in zip(DIRECTIONS, rounded.samples, exact.samples, strict=True):
        ranks, others = _ranks(few), _ranks(full)
        apart = np.abs(few.logits - full.logits)[few.scored & full.scored]
        found[way] = {
            "int8": round(100 * float((ranks == 1).mean()), 2),
            "fp32": round(100 * float((others == 1).mean()), 2),
            "difference": rank1_difference(ranks, others),
            "other_first": int(((ranks == 1) != (others == 1)).sum()),
            "logits_apart": round(float(apart.mean() / full.logits.std()), 5),
        }
    return found


def main() -> None:
    """Compare, and print JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.state_precision", description=__doc__
    )
    parser.add_argument("feed", type=Path)
    parser.add_argument("--bundle", type=Path, default=None)
    parser.add_argument("--images", type=Path, default=None)
    parser.add_argument("--text", default=None)
    parser.add_argument("--group-by", default=None)
    parser.add_argument("--queries", type=int, default=10**6, help="each way; all by default")
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle or pretrained())
    engine, match = Engine(bundle, native=False), FloatMatcher(bundle)
    feed = read_catalogue(arguments.feed, images=arguments.images, text=arguments.text)

    def evaluated(encoded: EncodedCatalogue) -> Evaluation:
        return evaluate(encoded, match, queries=arguments.queries, full=False)

    with feed:
        rounded, exact = map(evaluated, encoded_both_ways(engine, feed, arguments.group_by))
    found = {"model": bundle.model_id, "queries": rounded.figures["queries"]}
    print(json.dumps({**found, **compared(rounded, exact)}, indent=2))


if __name__ == "__main__":
    main()
