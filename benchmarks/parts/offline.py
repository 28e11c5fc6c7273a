"""The offline job's rate against that of the bare sessions on the same batches."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

from benchmarks import models
from benchmarks.contender import Contender, interleave, started
from benchmarks.measure import medians, spread
from benchmarks.results import Results
from benchmarks.settings import Settings

MODELS = (models.SHIPPED, "small-fp32")
JOBS = ("job", "processes")
BARE = ("wide", "sessions")
_ROUNDS = 3
_COPIES = 4  # of the catalogue: what starts and ends a job would be a tenth of a shorter one


def run(settings: Settings) -> None:
    """Measure each model."""
    results = Results(settings.results, "offline", settings.measured)
    models.ensure(settings)
    for name in MODELS:
        results.step(name, partial(_measure, settings, name))
    results.finish()


def _measure(settings: Settings, name: str) -> dict[str, Any]:
    folder = settings.work / "snapshots" / f"offline-{name}"
    given = {
        "bundle": str(models.bundle(settings, name)),
        "feed": str(models.catalogue(settings) / "train.csv"),
        "copies": 1 if settings.quick else _COPIES,
        "folder": str(folder),
    }
    try:
        with started(partial(Contender, name, "ours_index.py", given)) as (contender,):
            turns = {
                level: partial(contender.run, level=level, repeats=1, cold=True)
                for level in (*JOBS, *BARE)
            }
            found = interleave(min(_ROUNDS, settings.rounds), turns, f"offline, {name}")
            facts = contender.facts
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    spent = medians([{level: one["ms"] for level, one in each.items()} for each in found])
    rates = {level: [1000 * facts["pictures"] / ms for ms in each] for level, each in spent.items()}
    shares = {
        level: {
            bare: spread([100 * a / b for a, b in zip(rates[level], rates[bare], strict=True)])
            for bare in BARE
        }
        for level in JOBS
    }
    return {
        "facts": facts,
        "pictures_per_second": {level: spread(each) for level, each in rates.items()},
        "share_percent": shares,
    }
