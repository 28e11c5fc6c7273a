"""A searcher of the catalogue's newest version, which a request takes once and keeps to its end.

Nothing here holds a version: an old one goes with the last request that reads it, and its snapshot
may then be pruned.
"""

from __future__ import annotations

import logging

from index.live_index import LiveIndex
from model.bundle import Bundle
from model.engine import Engine
from model.resident import NOTHING, Residence
from service.records import SearchLimits
from service.search import Searcher
from service.settings import Settings

_logger = logging.getLogger("fashionbert.search")


class LiveSearch:
    """Hands out searchers of what the catalogue is now.

    Args:
        engine: the model.
        index: the catalogue; it is of that model.
        limits: of the searchers.
        residence: holds states on the device, for an engine that takes rows of them.
    """

    def __init__(
        self,
        engine: Engine,
        index: LiveIndex,
        limits: SearchLimits = SearchLimits(),  # noqa: B008 (frozen)
        residence: Residence | None = None,
    ) -> None:
        self.engine = engine
        self.index = index
        self.limits = limits
        self.residence = residence
        if residence is not None:
            residence.fill(index.latest.base)
        self.searcher()  # refuses at once what cannot be searched

    def searcher(self) -> Searcher:
        """A searcher of the newest version."""
        snapshot = self.index.latest
        # Later writes go on top of a snapshot, whose rows keep their numbers.
        tables = NOTHING if self.residence is None else self.residence.tables(snapshot.base)
        return Searcher(self.engine, snapshot, self.limits, tables)


def open_live_search(settings: Settings) -> LiveSearch:
    """Open the bundle and the current snapshot with what was written after it.

    Raises:
        BundleError, SnapshotError: one is missing, damaged, or not made for the other.
        FashionBertError: the device is not there.
    """
    bundle = Bundle.open(settings.bundle)
    engine = Engine(
        bundle,
        threads=settings.threads,
        device=settings.device,
        workers=settings.workers,
        gpu_memory=settings.gpu_memory,
        native=settings.native_matcher,
    )
    index = LiveIndex.open(
        settings.snapshots,
        engine=engine,
        verify=settings.verify_snapshot,
        recall_device=settings.recall_device,
    )
    residence = _residence(engine, settings.gpu_states)
    return LiveSearch(engine, index, settings.search_limits, residence)


def _residence(engine: Engine, budget: int) -> Residence | None:
    """Where states are held on the GPU, if that was asked for and can be."""
    if not budget:
        return None
    if engine.device == "cuda" and engine.takes_rows:
        return Residence(budget, engine.device)
    _logger.warning(
        "FASHIONBERT_GPU_STATES is without effect: it is for FASHIONBERT_DEVICE=cuda and a bundle "
        "that this version's `fashionbert export --precision fp16` made, not for %s on %s",
        engine.bundle.path,
        engine.device,
    )
    return None
