"""Whether a caller still waits, told to the work that is done for it.

The work itself is shared out by `model.passes`: the matcher's passes of all requests take turns.
What is here goes the other way: when a caller hangs up a flag is set, at which the work looks
before each pass.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from dataclasses import dataclass

from model.errors import FashionBertError


class AbandonedError(FashionBertError):
    """Nobody waits for this work any more; it was dropped."""

    code = "abandoned"


@dataclass(slots=True)
class Caller:
    """One who waits for an answer, until `leave`, which calls `when_gone`."""

    gone: bool = False
    when_gone: Callable[[], object] | None = None

    def leave(self) -> None:
        """Say that nobody waits any more."""
        self.gone = True
        if self.when_gone is not None:
            self.when_gone()

    def has_left(self) -> bool:
        """Whether nobody waits any more."""
        return self.gone

    def check(self) -> None:
        """Go on, if somebody still waits.

        Raises:
            AbandonedError: nobody does.
        """
        if self.gone:
            raise AbandonedError("the caller has hung up: the work was dropped")


#: Whom the work of this thread or task is done for. A thread that is started with a copy of the
#: context, as anyio's are, sees the same caller.
current_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller")


def caller() -> Caller:
    """The current caller; outside of a request one who never leaves."""
    return current_caller.get(None) or Caller()
