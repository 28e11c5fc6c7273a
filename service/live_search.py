"""A searcher of the newest view: a request takes one and keeps it, so it sees one version only."""

from __future__ import annotations

from typing import cast

from index.live import LiveSnapshot
from index.live_index import LiveIndex
from index.snapshot import Snapshot
from model.bundle import Bundle
from model.engine import Engine
from service.records import SearchLimits
from service.search import Searcher
from service.settings import Settings


class LiveSearch:
    """Hands out searchers of what the catalogue is now.

    Args:
        engine: the model.
        live: the catalogue; it is of that model.
        limits: of the searchers.
    """

    def __init__(
        self,
        engine: Engine,
        live: LiveIndex,
        limits: SearchLimits = SearchLimits(),  # noqa: B008 (frozen)
    ) -> None:
        self.engine = engine
        self.live = live
        self.limits = limits
        self._newest = (live.view, self._searcher_of(live.view))

    def searcher(self) -> Searcher:
        """The searcher of the newest view; the same one until there is a newer."""
        view = self.live.view
        newest = self._newest
        if newest[0] is not view:
            # Two threads may each make one: they are alike.
            newest = self._newest = (view, self._searcher_of(view))
        return newest[1]

    def _searcher_of(self, view: LiveSnapshot) -> Searcher:
        return Searcher(self.engine, cast(Snapshot, view), self.limits)  # it reads as one


def open_live_search(settings: Settings) -> LiveSearch:
    """Open the bundle and the current snapshot with what was written after it.

    Raises:
        BundleError, SnapshotError: one is missing, damaged, or not made for the other.
        FashionBertError: the device is not there.
    """
    bundle = Bundle.open(settings.bundle)
    engine = Engine(bundle, threads=settings.threads, device=settings.device)
    live = LiveIndex.open(settings.snapshots, engine=engine, verify=settings.verify_snapshot)
    return LiveSearch(engine, live, settings.search_limits)
