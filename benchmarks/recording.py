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


@dataclass(slots=True)
class Recording:
    """The passes of some work."""

    runs: list[Run] = field(default_factory=list)

    @property
    def threads(self) -> int:
        """How many threads made them."""
        return len({run.thread for run in self.runs})

    def replay(self) -> list[Any]:
        """Make the passes again, by as many threads as made them; gives what each gave."""
        if self.threads <= 1:
            return [run.again() for run in self.runs]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(Run.again, self.runs))


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
