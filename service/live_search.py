"""A searcher of the newest view: a request takes one and keeps it, so it sees one version only.

Nothing here holds a view: an old one goes with the last request that reads it, and its snapshot
may then be pruned.
"""

from __future__ import annotations

from index.live_index import LiveIndex
from model.bundle import Bundle
from model.engine import Engine
from service.records import SearchLimits
from service.search import Searcher
from service.settings import Settings


class LiveSearch:
    """Hands out searchers of what the catalogue is now.

    Args:
        engine: the model.
        index: the catalogue; it is of that model.
        limits: of the searchers.
    """

    def __init__(
        self,
        engine: Engine,
        index: LiveIndex,
        limits: SearchLimits = SearchLimits(),  # noqa: B008 (frozen)
    ) -> None:
        self.engine = engine
        self.index = index
        self.limits = limits
        self.searcher()  # refuses at once what cannot be searched

    def searcher(self) -> Searcher:
        """A searcher of the newest view."""
        return Searcher(self.engine, self.index.view, self.limits)


def open_live_search(settings: Settings) -> LiveSearch:
    """Open the bundle and the current snapshot with what was written after it.

    Raises:
        BundleError, SnapshotError: one is missing, damaged, or not made for the other.
        FashionBertError: the device is not there.
    """
    bundle = Bundle.open(settings.bundle)
    engine = Engine(
        bundle, threads=settings.threads, device=settings.device, workers=settings.workers
    )
    index = LiveIndex.open(settings.snapshots, engine=engine, verify=settings.verify_snapshot)
    return LiveSearch(engine, index, settings.search_limits)
