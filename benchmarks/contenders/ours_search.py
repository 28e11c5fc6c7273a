"""Our search over a snapshot, and what lies below it: the engine, and the bare sessions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol import Prepare, serve, settings

from benchmarks import recording
from index.snapshot import Snapshot
from model.bundle import Bundle


def make() -> tuple[Prepare, dict[str, Any]]:
    """Settings: `bundle`, `snapshots`, `queries`, `threads`.

    Requests: `level` of `sessions`, `engine`, `searcher`; `candidates`.
    """
    recording.install()
    from model.engine import Engine
    from service.search import Searcher

    given = settings()
    engine = Engine(Bundle.open(Path(given["bundle"])), threads=given.get("threads"))
    snapshot = Snapshot.open(Path(given["snapshots"]), model_id=engine.model_id)
    searcher = Searcher(engine, snapshot)

    def sessions(candidates: int) -> Callable[[], object]:
        recorded = []
        for query in given["queries"][:4]:
            with recording.recording() as passes:
                searcher.search_text(query, candidates=candidates)
            recorded.append(passes)
        again = itertools.cycle(recorded)

        def work() -> object:
            next(again).replay()
            return None

        return work

    def engine_alone(candidates: int) -> Callable[[], object]:
        queries = itertools.cycle(given["queries"])
        embedding = engine.encode_texts(given["queries"][:1]).embeddings[0]
        rows, _ = snapshot.search_images(embedding, candidates)
        images = snapshot.image_states(rows)
        return lambda: engine.match(engine.encode_texts([next(queries)]).states, images)

    def search(candidates: int) -> Callable[[], object]:
        queries = itertools.cycle(given["queries"])

        def work() -> object:
            result = searcher.search_text(next(queries), candidates=candidates)
            if result.degraded is not None or result.pairs != candidates:
                raise RuntimeError(f"{result.pairs} of {candidates} reranked: {result.degraded}")
            return {"timings": result.timings}

        return work

    levels = {"sessions": sessions, "engine": engine_alone, "searcher": search}

    def prepare(request: dict[str, Any]) -> Callable[[], object]:
        return levels[request.get("level", "searcher")](request["candidates"])

    return prepare, {"products": len(snapshot), "threads": engine.threads}


serve(make)
