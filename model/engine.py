"""ONNX Runtime over a bundle: the model as everything online runs it."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.cuts import Rows, cut
from model.errors import BundleError
from model.memory import MemoryWatch, halving
from model.passes import UNLIMITED, Limits, PassPool, Together
from model.pinned import host_memory
from model.preprocess import TextTokenizer
from model.processor import cores
from model.row_matcher import Pairs, RowMatcher, takes_rows
from model.sessions import open_session, prepare, providers
from model.states import QuantisedStates, quantise
from model.tables import States

if TYPE_CHECKING:
    from model.native.matcher import NativeMatcher

#: Rows of one pass of an encoder, at most. On a CPU the activations of a small batch stay in cache:
#: measured in docs/EXPERIMENTS.md. On a GPU it is a guess.
ENCODE_BATCH = {"cpu": 8, "cuda": 128}
#: Tokens and patches of one pass of the matcher, likewise: 10 pairs of 24 + 25 on a CPU.
MATCH_TOKENS = {"cpu": 512, "cuda": 16_384}
#: The same of the compiled matcher, which keeps a few pairs at a time in cache whatever it gets.
NATIVE_TOKENS = 1024


_logger = logging.getLogger("fashionbert.engine")


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    """`states` [B, T, H] quantised, `lengths` int32 [B] real tokens, `embeddings` float32 [B, E]
    of unit length (E = 0 without a recall head), `truncated` bool [B]."""

    states: QuantisedStates
    lengths: NDArray[np.int32]
    embeddings: NDArray[np.float32]
    truncated: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """`states` [B, P, H] quantised, `embeddings` float32 [B, E] of unit length, or E = 0."""

    states: QuantisedStates
    embeddings: NDArray[np.float32]


def go_on() -> None:
    """Work that nobody can call off: what runs before each pass by default."""


class Engine:
    """Encodes texts and pictures and scores pairs of them. Safe to use from several threads.

    Args:
        bundle: the exported model. One without a recall head, as the paper's, has `recall_size`
            E = 0: it encodes and matches, but nothing can be searched with it.
        threads: processor cores to compute with; by default all that the process may use.
        device: `cpu` or `cuda`.
        workers: passes of the matcher that run at the same time, with `threads` / `workers` cores
            each; by default on a CPU as many as threads, and on a GPU one.
        encoder_workers: passes of an encoder that run at the same time, likewise. By default one:
            a query is one pass, which all cores make sooner than one.
        gpu_memory: most bytes on the GPU that the graphs take together; by default all there are.
        native: on a CPU, score pairs by the compiled matcher where there is one (`model.native`),
            and not by ONNX Runtime.

    Raises:
        BundleError: a graph cannot be loaded.
        FashionBertError: the device is not there.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        device: str = "cpu",
        workers: int | None = None,
        encoder_workers: int = 1,
        gpu_memory: int | None = None,
        native: bool = True,
    ) -> None:
        manifest = bundle.manifest
        using = providers(device, manifest.precision, gpu_memory)
        prepare(device, manifest.precision, bundle.path)
        self.bundle = bundle
        self.device = device
        self.model_id = bundle.model_id
        self.hidden_size = manifest.hidden_size
        self.patches = manifest.patches
        self.recall_size = manifest.recall_size
        self.image_size = manifest.image_size
        self.tokenizer = TextTokenizer(bundle.path / "tokenizer.json", manifest.max_text_tokens)
        self.threads = threads or cores()
        self.workers = workers or (self.threads if device == "cpu" else 1)
        self._encode_batch = ENCODE_BATCH[device]
        self.encoder_workers = encoder_workers
        self._encoder_passes = None
        if encoder_workers > 1:
            self._encoder_passes = PassPool(encoder_workers, name="encoder")
        each = max(1, self.threads // encoder_workers)
        self._text_encoder: Any = open_session(bundle.path / "text_encoder.onnx", using, each)
        self._image_encoder: Any = open_session(bundle.path / "image_encoder.onnx", using, each)
        each = max(1, self.threads // self.workers)
        file = bundle.path / "matcher.onnx"
        self._matcher: Any = open_session(file, using, each)
        self._native: NativeMatcher | None = None
        if native and device == "cpu" and manifest.precision in ("int8", "fp32"):
            from model.native.choice import open_native  # with onnx, which no other engine needs

            self._native = open_native(file, self._matcher, self.patches, self.workers)
        if self._native is not None:
            self._matcher = None  # it was there to compare with, and takes memory
            if self.workers < self.threads:
                _logger.warning(
                    "%d passes at a time were asked for, and the compiled matcher takes one core "
                    "each: leave that out, so that pairs are scored by all %d",
                    self.workers,
                    self.threads,
                )
        self.match_tokens = MATCH_TOKENS[device] if self._native is None else NATIVE_TOKENS
        by_rows = self._native is None and takes_rows(self._matcher)
        self._rows = RowMatcher(self._matcher, host_memory(device)) if by_rows else None
        # On a GPU a pass is the better the larger it is; on a CPU see `model.passes`.
        share_passes = device == "cuda" and self._rows is not None
        self.passes = PassPool(self.workers, self.match_tokens if share_passes else 0)
        self.memory = MemoryWatch()
        for pool in (self.passes, self._encoder_passes):
            if pool is not None:
                weakref.finalize(self, pool.close)

    def require_recall(self) -> None:
        """Refuse a model that cannot search.

        Raises:
            BundleError: it has no recall head.
        """
        if not self.recall_size:
            raise BundleError(
                f"{self.bundle.path} was trained without a recall head, so nothing can be searched "
                "with it: train with a preset that has one, such as small"
            )

    def _encode(self, session: Any, feeds: dict[str, Any]) -> tuple[Any, Any]:
        """States [B, L, H] and embeddings [B, E]."""
        if self.recall_size:
            states, embeddings = session.run(["states", "embedding"], feeds)
            return states, embeddings
        (states,) = session.run(["states"], feeds)
        return states, np.empty((len(states), 0), dtype=np.float32)

    def encode_texts(
        self, texts: Sequence[str], before_pass: Callable[[], None] = go_on
    ) -> EncodedTexts:
        """Encode texts; passes are cut from the texts sorted by length.

        Args:
            texts: none of them empty.
            before_pass: called before each pass; what it raises ends the work.

        Raises:
            OutOfMemoryError: a pass does not fit, and neither do its halves.
        """
        tokens = self.tokenizer.encode(texts)
        lengths = tokens.attention_mask.sum(1).astype(np.int32)
        states = np.zeros((*tokens.input_ids.shape, self.hidden_size), dtype=np.float32)
        embeddings = np.zeros((len(texts), self.recall_size), dtype=np.float32)

        def encode(rows: NDArray[np.int64]) -> None:
            longest = int(lengths[rows].max())
            feeds = {
                "input_ids": tokens.input_ids[rows, :longest],
                "attention_mask": tokens.attention_mask[rows, :longest],
            }
            states[rows, :longest], embeddings[rows] = self._encode(self._text_encoder, feeds)

        passes = _by_length(lengths, self._encode_batch)
        self._in_passes("text_encoder", passes, encode, before_pass)
        quantised = quantise(states, tokens.attention_mask)
        return EncodedTexts(quantised, lengths, embeddings, tokens.truncated)

    def encode_images(
        self, pixels: NDArray[np.uint8], before_pass: Callable[[], None] = go_on
    ) -> EncodedImages:
        """Encode pictures.

        Args:
            pixels: uint8 [B, S, S, 3], as `model.preprocess.decode_image` makes them.
            before_pass: called before each pass; what it raises ends the work.

        Raises:
            OutOfMemoryError: a pass does not fit, and neither do its halves.
        """
        values = np.empty((len(pixels), self.patches, self.hidden_size), dtype=np.int8)
        scales = np.empty((len(pixels), self.patches), dtype=np.float32)
        embeddings = np.empty((len(pixels), self.recall_size), dtype=np.float32)

        def encode(rows: NDArray[np.int64]) -> None:
            feeds = {"pixels": pixels[_view(rows)]}
            states, embeddings[rows] = self._encode(self._image_encoder, feeds)
            quantised = quantise(states)
            values[rows], scales[rows] = quantised.values, quantised.scales

        every = np.arange(len(pixels))
        size = self._encode_batch
        passes = [every[at : at + size] for at in range(0, len(every), size)]
        self._in_passes("image_encoder", passes, encode, before_pass)
        return EncodedImages(QuantisedStates(values, scales), embeddings)

    def _in_passes(
        self,
        graph: str,
        passes: Sequence[NDArray[np.int64]],
        compute: Callable[[NDArray[np.int64]], None],
        before_pass: Callable[[], None],
    ) -> None:
        def run(rows: NDArray[np.int64]) -> None:
            before_pass()
            halving(compute)(rows)
            fits()

        with self.memory.watching(graph) as fits:
            if self._encoder_passes is not None:
                self._encoder_passes.run(passes, [len(rows) for rows in passes], run)
                return
            for rows in passes:
                run(rows)

    def match(self, texts: States, images: States) -> NDArray[np.float32]:
        """Raw match logits of pairs, the ranking key.

        Args:
            texts: [B, T, H], padded with scale 0; or batch 1, one text against all pictures.
            images: [B, P, H]; or batch 1, one picture against all texts.

        Returns:
            float32 [B].

        Raises:
            OutOfMemoryError: a pass does not fit, and neither do its halves.
        """
        return self.match_within(texts, images, UNLIMITED)[0]

    def match_within(
        self, texts: States, images: States, limits: Limits, window: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """As `match`, of as many pairs as the limits leave time for.

        Args:
            texts: as of `match`.
            images: as of `match`.
            limits: when to stop.
            window: the first so many pairs are done before the next; 0 is all, sorted by length.

        Returns:
            Logits float32 [B], and which of them were computed, bool [B]; the others are 0.
        """
        count = len(images) if len(texts) == 1 else len(texts)
        if len(images) not in (1, count):
            raise ValueError(f"{len(texts)} texts against {len(images)} pictures: no pairs")
        lengths = texts.lengths
        pairs = Pairs(
            texts, images, np.zeros(count, np.float32), np.broadcast_to(lengths, (count,))
        )
        # A caller that is alone gets all workers, if the passes do not become too small by it.
        share = -(-count // self.workers) * (int(lengths.max(initial=0)) + self.patches)
        budget = min(self.match_tokens, max(share, self.match_tokens // 2))
        passes = cut(pairs.lengths, self.patches, budget, window, self.workers)
        costs = [len(rows) * (int(pairs.lengths[rows[-1]]) + self.patches) for rows in passes]
        together = None
        if self._native is not None:
            compute = partial(self._match_native, pairs)
        elif self._rows is None:
            compute = partial(self._match_pass, pairs)
        else:
            compute = partial(self._match_rows, pairs)
            together = Together(pairs.tables, pairs, self._rows.run)
        done = np.zeros(count, dtype=np.bool_)
        with self.memory.watching("matcher") as fits:
            for number in self.passes.run(passes, costs, halving(compute), limits, together):
                done[passes[number]] = True
                fits()
        return pairs.logits, done

    def _match_native(self, pairs: Pairs, rows: Rows) -> None:
        """A pass of the compiled matcher, which picks the rows itself and needs no padding."""
        assert self._native is not None  # match_within asks
        texts, images = _quantised(pairs)
        pairs.logits[rows] = self._native.match(texts, images, pairs.lengths, rows)

    def _match_rows(self, pairs: Pairs, rows: Rows) -> None:
        assert self._rows is not None  # match_within asks
        self._rows.run([(pairs, rows)])

    def _match_pass(self, pairs: Pairs, rows: Rows) -> None:
        """A pass of a matcher without row inputs."""
        texts, images = _quantised(pairs)
        text_rows = _view(rows) if len(texts) > 1 else slice(None)
        image_rows = _view(rows) if len(images) > 1 else slice(None)
        longest = int(pairs.lengths[rows[-1]])
        feeds = {
            "text_states": texts.values[text_rows, :longest],
            "text_scales": texts.scales[text_rows, :longest],
            "image_states": images.values[image_rows],
            "image_scales": images.scales[image_rows],
        }
        pairs.logits[rows] = self._matcher.run(["logit"], feeds)[0]

    @property
    def is_native(self) -> bool:
        """Whether pairs are scored by the compiled matcher."""
        return self._native is not None

    @property
    def takes_rows(self) -> bool:
        """Whether a side of `match` may be rows of tables on the device: fp16 bundles' can."""
        return self._rows is not None

    def probability(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Calibrated probability that text and picture belong together, for each logit."""
        slope, intercept = self.bundle.manifest.calibration
        scaled = np.clip(slope * logits + intercept, -60, 60)
        probability: NDArray[np.float32] = (1 / (1 + np.exp(-scaled))).astype(np.float32)
        return probability


def offline_engine(bundle: Bundle, *, threads: int | None = None, device: str = "cpu") -> Engine:
    """An engine to encode a catalogue with.

    It has no compiled matcher, and on a CPU each core makes passes of its own: without barriers
    between them they encode a quarter more (docs/EXPERIMENTS.md).

    Args:
        bundle: as of `Engine`, as are the others and what is raised.
        threads: processor cores.
        device: `cpu` or `cuda`.
    """
    threads = threads or cores()
    workers = threads if device == "cpu" else 1
    return Engine(bundle, threads=threads, device=device, encoder_workers=workers, native=False)


def _quantised(pairs: Pairs) -> tuple[QuantisedStates, QuantisedStates]:
    """Both sides, of a matcher without row inputs."""
    texts, images = pairs.texts, pairs.images
    if not (isinstance(texts, QuantisedStates) and isinstance(images, QuantisedStates)):
        raise ValueError("this bundle's matcher takes no rows of tables: see `takes_rows`")
    return texts, images


def _by_length(lengths: NDArray[np.int32], batch: int) -> list[NDArray[np.int64]]:
    """Row numbers in batches of like length, so that little of a pass is padding.

    The longest come first: with several passes at a time a short one at the end keeps nobody idle.
    """
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch] for start in range(0, len(order), batch)]


def _view(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Rows that follow one another as a slice, which copies nothing."""
    if (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows
