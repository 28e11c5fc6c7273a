"""A bundle's three graphs, run one item a pass: what precisions are made and compared with.

What serves is `model.engine`; here nothing is batched, so nothing is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto

from model.bundle import Bundle
from model.eight_bit import exact_8_bit
from model.preprocess import TextTokenizer
from model.row_matcher import takes_rows, with_all_rows
from model.samples import Samples
from model.states import quantise

#: The graphs of a bundle, in the order of the work.
GRAPHS = ("text_encoder", "image_encoder", "matcher")

#: The inputs of one pass, by name.
Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Trace:
    """What came out for N products: all state vectors [M, H], embeddings [2N, E] (E = 0 without a
    recall head), and logits [2N], each text's with its own picture and with the next one's."""

    states: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    logits: NDArray[np.float32]


class Graphs:
    """The sessions of a bundle, on the CPU.

    Args:
        bundle: whose graphs.
        change: made of each graph before it is run, such as more outputs.
    """

    def __init__(
        self, bundle: Bundle, change: Callable[[ModelProto], ModelProto] | None = None
    ) -> None:
        self._sessions = {}
        options = ort.SessionOptions()
        options.log_severity_level = 3
        exact_8_bit(options)
        for name in GRAPHS:
            path = str(bundle.path / f"{name}.onnx")
            self._sessions[name] = ort.InferenceSession(
                path if change is None else change(onnx.load(path)).SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
            )
        manifest = bundle.manifest
        self.tokenizer = TextTokenizer(bundle.path / "tokenizer.json", manifest.max_text_tokens)

    def _run(self, graph: str, feeds: Feeds) -> list[NDArray[np.float32]]:
        """All outputs of one graph: states and, with a recall head, embeddings; or the logits."""
        session = self._sessions[graph]
        if takes_rows(session):
            feeds = with_all_rows(feeds)
        outputs: list[NDArray[np.float32]] = session.run(None, feeds)
        return outputs

    def _encoder_feeds(self, samples: Samples) -> dict[str, list[Feeds]]:
        tokens = [self.tokenizer.encode([text]) for text in samples.texts]
        return {
            "text_encoder": [
                {"input_ids": one.input_ids, "attention_mask": one.attention_mask} for one in tokens
            ],
            "image_encoder": [{"pixels": pixels[None]} for pixels in samples.pixels],
        }

    def feeds(self, samples: Samples) -> dict[str, list[Feeds]]:
        """What each graph is fed over samples, one item a pass."""
        feeds = self._encoder_feeds(samples)
        states = [[self._run(graph, feed)[0] for feed in feeds[graph]] for graph in GRAPHS[:2]]
        return {**feeds, "matcher": _pairs(*states)}

    def largest_difference(self, other: Graphs, samples: Samples) -> float:
        """Between the outputs of both where they are fed alike; NaN if one is no number."""
        differences = [
            np.abs(ours - theirs).max()
            for graph, feeds in self.feeds(samples).items()
            for feed in feeds
            for ours, theirs in zip(self._run(graph, feed), other._run(graph, feed), strict=True)
        ]
        return float(np.max(differences))

    def beyond(self, fed_by: Graphs, samples: Samples) -> list[str]:
        """The graphs that put out infinity or what is no number, fed as those of `fed_by` are."""
        return [
            graph
            for graph, feeds in fed_by.feeds(samples).items()
            if not all(np.isfinite(one).all() for feed in feeds for one in self._run(graph, feed))
        ]

    def trace(self, samples: Samples) -> Trace:
        """Run samples through all three graphs."""
        states: list[list[NDArray[np.float32]]] = []
        embeddings = []
        for graph, feeds in self._encoder_feeds(samples).items():
            outputs = [self._run(graph, feed) for feed in feeds]
            states.append([output[0] for output in outputs])
            embeddings += [output[1] for output in outputs if len(output) > 1]
        logits = [self._run("matcher", feed)[0] for feed in _pairs(*states)]
        flat = [one.reshape(-1, one.shape[-1]) for side in states for one in side]
        return Trace(
            np.concatenate(flat),
            np.concatenate(embeddings) if embeddings else np.empty((0, 0), dtype=np.float32),
            np.concatenate(logits),
        )


def _pairs(
    texts: Sequence[NDArray[np.float32]], images: Sequence[NDArray[np.float32]]
) -> list[Feeds]:
    """Each text with its own picture and with the next one's, as the matcher takes them."""
    # What is no number is seen in the states; here it need only not stop the work.
    stored = [[quantise(np.nan_to_num(states)) for states in side] for side in (texts, images)]
    return [
        {
            "text_states": text.values,
            "text_scales": text.scales,
            "image_states": image.values,
            "image_scales": image.scales,
        }
        for row, text in enumerate(stored[0])
        for image in (stored[1][row], stored[1][(row + 1) % len(stored[1])])
    ]
