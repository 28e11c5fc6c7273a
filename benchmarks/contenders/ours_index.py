"""Our offline job over the catalogue, and the bare sessions on the batches that it made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from protocol import Prepare, serve, settings


def make() -> tuple[Prepare, dict[str, Any]]:
    """Settings: `bundle`, `feed`, `copies` of its products that are encoded, `folder` for the
    snapshots. Requests: `level` of `job`, `processes` (the job with one a core), `sessions` (its
    passes, as it makes them: one a core) and `wide` (the same passes as ONNX Runtime makes them by
    default: each by all cores).
    """
    # Not above: processes that encode import this file, as they do the command line's own.
    from benchmarks import recording

    recording.install()
    from index.build import build
    from model.bundle import Bundle
    from model.catalogue import read_catalogue
    from model.engine import Engine, offline_engine

    given = settings()
    bundle = Bundle.open(Path(given["bundle"]))
    offline, wide = offline_engine(bundle), Engine(bundle, native=False)
    root = Path(given["folder"])
    catalogue = read_catalogue(Path(given["feed"]), check_images=False)
    catalogue = replace(
        catalogue,
        products=[
            replace(product, id=f"{product.id}-{copy}")
            for copy in range(given["copies"])
            for product in catalogue.products
        ],
    )

    def job(processes: int = 1, engine: Engine = offline) -> object:
        shutil.rmtree(root, ignore_errors=True)
        build(catalogue, engine, root, progress=False, processes=processes)
        return None

    def recorded(engine: Engine) -> recording.Recording:
        with recording.recording() as passes:
            job(engine=engine)
        return passes

    def replayed(passes: recording.Recording) -> object:
        passes.replay(in_turn=False)  # none needs another
        return None

    passes, of_all_cores = recorded(offline), recorded(wide)
    pictures = sum(len(product.images) for product in catalogue.products)
    cores = len(os.sched_getaffinity(0))
    levels = {
        "job": job,
        "processes": partial(job, cores),
        "sessions": partial(replayed, passes),
        "wide": partial(replayed, of_all_cores),
    }

    def prepare(request: dict[str, Any]) -> Callable[[], object]:
        return levels[request["level"]]

    facts = {
        "processes": cores,
        "products": len(catalogue.products),
        "pictures": pictures,
        "passes": len(passes.runs),
        "threads": passes.at_once,
    }
    return prepare, facts


if __name__ == "__main__":  # the processes that encode import this file
    serve(make)
