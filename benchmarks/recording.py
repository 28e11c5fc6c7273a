"""What the code asks of ONNX Runtime, recorded, so that it can be done again and nothing else.

The bare sessions are then compared on the very batches that the engine gives them, whatever it
makes of its work. `install` before an engine is made.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import onnxruntime as ort

_Session: Any = ort.InferenceSession


@dataclass(slots=True)
class Run:
    """One pass: a session, what it was given, the outputs wanted, and the thread it was in."""

    session: Any
    names: Any
    feeds: dict[str, Any] | None
    binding: Any
    thread: int

    def again(self) -> Any:
        """Do it once more; gives the outputs, or None where they are bound."""
        if self.binding is not None:
            return _Session.run_with_iobinding(self.session, self.binding)
        return _Session.run(self.session, self.names, self.feeds)


@dataclass
class Recording:
    """The passes of some work."""

    runs: list[Run] = field(default_factory=list)
    own: int = field(default_factory=threading.get_ident)

    @property
    def helpers(self) -> int:
        """How many other threads made some of them."""
        return len({run.thread for run in self.runs} - {self.own})

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """As many threads as helped; kept, as the engine keeps its own."""
        return ThreadPoolExecutor(max(1, self.helpers))

    def replay(self) -> list[Any]:
        """Make the passes again, by as many threads as made them; gives what each gave.

        What the recording thread made itself is made in its turn, as what follows may need it: the
        matcher's passes come after the query's encoding. Only other threads' passes go together.
        """
        outputs: list[Any] = []
        for is_own, group in groupby(self.runs, key=lambda run: run.thread == self.own):
            runs = list(group)
            outputs += map(Run.again, runs) if is_own else self._pool.map(Run.again, runs)
        return outputs


_current: Recording | None = None


class RecordingSession(_Session):  # type: ignore[misc]
    """An `InferenceSession` that remembers its passes while a recording goes on."""

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Any:
        """As the class it stands for."""
        if _current is not None:
            # Copies: the caller may use its arrays again.
            feeds = {name: np.array(value, order="C") for name, value in input_feed.items()}
            _current.runs.append(Run(self, output_names, feeds, None, threading.get_ident()))
        return _Session.run(self, output_names, input_feed, run_options)

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        """As the class it stands for; what is bound must stay as it is until the replay."""
        if _current is not None:
            _current.runs.append(Run(self, None, None, iobinding, threading.get_ident()))
        _Session.run_with_iobinding(self, iobinding, run_options)


def install() -> None:
    """Let sessions that are made from now on be of this kind."""
    ort.InferenceSession = RecordingSession


@contextmanager
def recording() -> Iterator[Recording]:
    """Record all passes of a `with` block, of all threads."""
    global _current
    _current = Recording()
    try:
        yield _current
    finally:
        _current = None
