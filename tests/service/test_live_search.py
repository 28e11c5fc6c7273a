from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from index.build import build
from model.bundle import Bundle
from model.catalogue import read_catalogue
from model.engine import Engine
from model.sessions import providers
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


def test_the_engine_is_as_the_settings_say(
    bundle: Bundle, snapshot_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def noted(*given: Any) -> list[tuple[str, dict[str, str]]]:
        asked.append(given)
        return providers("cpu")

    monkeypatch.setattr("model.engine.providers", noted)
    given: dict[str, Any] = {"threads": 3, "workers": 2, "gpu_memory": 4_000_000_000}
    settings = Settings(bundle=bundle.path, snapshots=snapshot_root, **given)
    engine = open_live_search(settings).engine
    assert (engine.threads, engine.workers, engine.passes.workers) == (3, 2, 2)
    assert asked == [("cpu", "fp32", 4_000_000_000)]
