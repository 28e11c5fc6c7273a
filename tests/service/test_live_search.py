from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from index.build import build
from model.bundle import Bundle
from model.catalogue import read_catalogue
from model.engine import Engine
from service.live_search import open_live_search
from service.settings import Settings


@pytest.mark.usefixtures("compiled")
def test_the_compiled_matcher_can_be_ruled_out(
    form_bundle: Callable[[str], Bundle], demo_catalogue: Path, tmp_path: Path
) -> None:
    bundle = form_bundle("split")
    with read_catalogue(demo_catalogue / "val.csv") as catalogue:
        build(catalogue, Engine(bundle, threads=2), tmp_path / "snapshots", progress=False)
    scores = {}
    for native in (True, False):
        settings = Settings(
            bundle=bundle.path, snapshots=tmp_path / "snapshots", native_matcher=native
        )
        live = open_live_search(settings)
        assert live.engine.is_native is native
        hits = live.searcher().search_text("red dress", 20).hits
        scores[native] = {hit.item.id: hit.score for hit in hits}
    assert scores[True] == pytest.approx(scores[False], abs=0.05)
