"""What the code asks of ONNX Runtime and of the compiled matcher, recorded, so that it can be done
again and nothing else.

The bare sessions are then compared on the very batches that the engine gives them, whatever it
makes of its work. `install` before an engine is made.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from model.native import choice
from model.native.matcher import NativeMatcher
from model.states import QuantisedStates

_Session: Any = ort.InferenceSession


@dataclass(slots=True)
class Run:
    """One pass: how to do it once more, which gives its outputs or None where they are bound, the
    thread it was in, and from when to when."""

    again: Callable[[], Any]
    thread: int = field(default_factory=threading.get_ident)
    began: float = field(default_factory=time.perf_counter)
    ended: float = float("inf")


@dataclass
class Recording:
    """The passes of some work."""

    runs: list[Run] = field(default_factory=list)
    own: int = field(default_factory=threading.get_ident)

    @contextmanager
    def noting(self, again: Callable[[], Any]) -> Iterator[None]:
        """Note the pass that a `with` block makes."""
        run = Run(again)
        self.runs.append(run)
        try:
            yield
        finally:
            run.ended = time.perf_counter()

    @property
    def at_once(self) -> int:
        """How many of them went on at the same time, at most."""
        return _most_at_once(self.runs)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """Kept, as the engine keeps its own."""
        return ThreadPoolExecutor(max(1, self.at_once))

    def replay(self, *, in_turn: bool = True) -> list[Any]:
        """Make the passes again, as many at a time as there were; gives what each gave.

        Args:
            in_turn: make a pass alone that was made while no other was, as what follows may need
                it: the matcher's passes come after the query's encoding.
        """
        if not in_turn:
            return self._together(self.runs)
        outputs: list[Any] = []
        for runs in self._groups():
            outputs += self._together(runs) if len(runs) > 1 else [runs[0].again()]
        return outputs

    def _groups(self) -> list[list[Run]]:
        """Passes that went together, in turn; each is begun before all that began earlier ended."""
        groups: list[list[Run]] = []
        end = 0.0
        for run in sorted(self.runs, key=lambda run: run.began):
            if run.began < end:
                groups[-1].append(run)
            else:
                groups.append([run])
            end = max(end, run.ended)
        # Between two such groups all threads were idle for a moment, as bare sessions need not be.
        merged: list[list[Run]] = []
        for group in groups:
            if merged and len(merged[-1]) > 1 and len(group) > 1:
                merged[-1] += group
            else:
                merged.append(group)
        return merged

    def _together(self, runs: list[Run]) -> list[Any]:
        """Passes that went together; this thread makes some if the recording one did."""
        left = deque(enumerate(runs))
        outputs: list[Any] = [None] * len(runs)

        def work() -> None:
            with suppress(IndexError):
                while True:
                    place, run = left.popleft()
                    outputs[place] = run.again()

        takes_part = any(run.thread == self.own for run in runs)
        others = [self._pool.submit(work) for _ in range(_most_at_once(runs) - takes_part)]
        if takes_part:
            work()
        for other in others:
            other.result()
        return outputs


def _most_at_once(runs: list[Run]) -> int:
    changes = sorted([(run.began, 1) for run in runs] + [(run.ended, -1) for run in runs])
    return max(accumulate(change for _, change in changes), default=0)


_current: Recording | None = None


class RecordingSession(_Session):  # type: ignore[misc]
    """An `InferenceSession` that remembers its passes while a recording goes on."""

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Any:
        """As the class it stands for."""
        if _current is None:
            return _Session.run(self, output_names, input_feed, run_options)
        # Copies: the caller may use its arrays again.
        feeds = {name: np.array(value, order="C") for name, value in input_feed.items()}
        with _current.noting(partial(_Session.run, self, output_names, feeds)):
            return _Session.run(self, output_names, input_feed, run_options)

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        """As the class it stands for; what is bound must stay as it is until the replay."""
        if _current is None:
            _Session.run_with_iobinding(self, iobinding, run_options)
            return
        with _current.noting(partial(_Session.run_with_iobinding, self, iobinding)):
            _Session.run_with_iobinding(self, iobinding, run_options)


class RecordingMatcher(NativeMatcher):
    """A compiled matcher that remembers its passes likewise."""

    def match(
        self,
        texts: QuantisedStates,
        images: QuantisedStates,
        lengths: NDArray[np.int32],
        rows: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """As the class it stands for."""
        if _current is None:
            return super().match(texts, images, lengths, rows)
        sides = [QuantisedStates(side.values.copy(), side.scales) for side in (texts, images)]
        bare = partial(NativeMatcher.match, self, *sides, lengths.copy(), rows.copy())
        with _current.noting(lambda: [bare()]):
            return super().match(texts, images, lengths, rows)


def install() -> None:
    """Let sessions and matchers that are made from now on be of this kind."""
    ort.InferenceSession = RecordingSession
    vars(choice)["NativeMatcher"] = RecordingMatcher


@contextmanager
def recording() -> Iterator[Recording]:
    """Record all passes of a `with` block, of all threads."""
    global _current
    _current = Recording()
    try:
        yield _current
    finally:
        _current = None
