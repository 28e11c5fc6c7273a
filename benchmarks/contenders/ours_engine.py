"""Our engine: a query encoded and matched with the stored states of candidates."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol import Prepare, serve, settings

from benchmarks.synthetic import states
from model.bundle import Bundle
from model.engine import Engine


def make() -> tuple[Prepare, dict[str, Any]]:
    """Settings: `bundle`, `queries`, `candidates`, `threads`. Requests may name `candidates`."""
    given = settings()
    engine = Engine(Bundle.open(Path(given["bundle"])), threads=given.get("threads"))
    most = given.get("most_candidates", given["candidates"])
    stored = states(most, engine.patches, engine.hidden_size)
    queries = itertools.cycle(given["queries"])

    def prepare(request: dict[str, Any]) -> Callable[[], object]:
        images = stored[: request.get("candidates", given["candidates"])]

        def work() -> object:
            return engine.match(engine.encode_texts([next(queries)]).states, images)

        return work

    length = int(engine.encode_texts(given["queries"][:1]).lengths[0])
    return prepare, {"tokens": length, "patches": engine.patches, "threads": engine.threads}


serve(make)
