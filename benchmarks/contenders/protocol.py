"""The far side of `benchmarks.contender`: one line of JSON in, one line out.

Standard library only: this also runs inside the peers' environments.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

#: Makes one unit of work ready from a request's parameters; calling what it gives does the work.
Prepare = Callable[[dict[str, Any]], Callable[[], object]]


def settings() -> dict[str, Any]:
    """What the harness gave: the only argument, as JSON."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    return given


def serve(make: Callable[[], tuple[Prepare, dict[str, Any]]]) -> None:
    """Set up, say `ready` with some facts, then answer requests until the input ends.

    A request is {"repeats": n or "seconds": s, ...parameters}; the answer {"ms": [...]}, a figure a
    repeat. One more repeat goes before, uncounted, unless `cold`. A unit of work that gives a
    dictionary has it added to the answer.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not stand among the answers

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    prepare, facts = make()
    answer({"ready": facts})
    for line in sys.stdin:
        request = json.loads(line)
        repeats, seconds = request.pop("repeats", None), request.pop("seconds", 0.0)
        cold = request.pop("cold", False)
        work = prepare(request)
        outcome = None if cold else work()
        milliseconds: list[float] = []
        end = time.perf_counter() + seconds
        while len(milliseconds) < (repeats or 3) or (not repeats and time.perf_counter() < end):
            start = time.perf_counter()
            outcome = work()
            milliseconds.append(1000 * (time.perf_counter() - start))
        told = outcome if isinstance(outcome, dict) else {}
        answer({**told, "ms": [round(one, 4) for one in milliseconds]})
