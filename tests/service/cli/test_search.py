from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from index.facets import Facet
from index.snapshot import Snapshot
from model.bundle import FILES, Bundle
from model.engine import Engine
from service.cli.search import _facets
from service.records import SearchResult, Selection
from service.search import Searcher

Shell = Callable[..., Any]


@pytest.fixture(autouse=True)
def _places(bundle: Bundle, snapshot_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHIONBERT_BUNDLE", str(bundle.path))
    monkeypatch.setenv("FASHIONBERT_SNAPSHOTS", str(snapshot_root))
    monkeypatch.setenv("FASHIONBERT_THREADS", "2")


@pytest.fixture
def file(photo: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    return path


def refused(ran: Any) -> str:
    """The one line of a command that was refused."""
    assert ran.code == 2
    assert ran.out == ""
    told = [line for line in ran.err.splitlines() if not line.startswith("{")]  # no log
    assert len(told) == 1
    assert told[0].startswith("error: ")
    return str(told[0])


def test_a_table(shell: Shell, searcher: Searcher) -> None:
    ran = shell("search", "red dress", "-k", "5")
    assert ran.code == 0
    header, *rows = ran.out.rstrip().splitlines()
    assert header.split() == ["rank", "score", "probability", "recall", "rank", "id", "title"]
    expected = searcher.search_text("red dress", k=5).hits
    assert len(rows) == 5
    for row, hit in zip(rows, expected, strict=True):
        assert row.split()[0] == str(hit.rank)
        assert hit.item.id in row
        assert f"{hit.score:.3f}" in row
    assert "rerank" in ran.err
    assert "ms" in ran.err


def test_json_by_text_and_by_picture(shell: Shell, searcher: Searcher, file: Path) -> None:
    by_text = json.loads(shell("search", "red dress", "--json", "--k", "3").out)
    expected = searcher.search_text("red dress", k=3)
    assert [hit["item"]["id"] for hit in by_text["hits"]] == [h.item.id for h in expected.hits]
    by_picture = json.loads(shell("search", "--image", file, "--json", "--no-rerank").out)
    recalled = searcher.search_image(file.read_bytes(), rerank=False)
    assert [hit["item"]["id"] for hit in by_picture["hits"]] == [h.item.id for h in recalled.hits]


def test_a_budget_of_time(shell: Shell) -> None:
    """None is left for the reranker, or enough."""
    ran = shell("search", "red dress", "--json", "--budget-ms", "0.001", "--candidates", "20")
    answer = json.loads(ran.out)
    assert (answer["candidates"], answer["reranked"], answer["degraded"]) == (20, 0, None)
    assert [hit["recall_rank"] for hit in answer["hits"]] == list(range(1, 11))
    told = shell("search", "red dress", "--budget-ms", "0.001", "--candidates", "20").err
    assert "0 of 20 candidates were reranked in time" in told
    whole = json.loads(shell("search", "red dress", "--json", "--budget-ms", "60000").out)
    plain = json.loads(shell("search", "red dress", "--json").out)
    assert whole["hits"] == plain["hits"]
    assert whole["reranked"] == whole["candidates"] == 64
    assert shell("search", "red dress", "--budget-ms", "0").code == 2


def test_a_reranker_that_fails(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(Engine, "match_within", fail)
    ran = shell("search", "red dress", "-k", "3")
    assert (ran.code, len(ran.out.splitlines())) == (0, 4)
    assert "the reranker failed: the hits are in the order of the recall" in ran.err
    assert "in time" not in ran.err


def test_filters_and_facets(shell: Shell, searcher: Searcher, file: Path) -> None:
    filters = {"colour": ["black", "navy"], "price": {"lte": 60}}
    selection = Selection(filters, ("product_type", "price"), 2)
    arguments = ["--filter", json.dumps(filters), "--facet", "product_type", "--facet", "price"]
    arguments += ["--facet-values", "2"]
    by_text = json.loads(shell("search", "coat", "--json", *arguments).out)
    expected = searcher.search_text("coat", selection=selection)
    assert [hit["item"]["id"] for hit in by_text["hits"]] == [h.item.id for h in expected.hits]
    assert by_text["matching"] == expected.matching > 0
    ran = shell("search", "--image", file, *arguments)
    assert f"{expected.matching} products match the filter" in ran.err
    facet = expected.facets["product_type"]
    value, count = facet.values[0]
    assert [line.split() for line in ran.out.splitlines() if line.startswith("product_type")] == [
        ["product_type", *str(value).split(), str(count)]
    ]
    assert f"{facet.distinct - 2} others" in ran.out


def test_a_product_with_several_values_is_no_other() -> None:
    sizes = (("S", 3), ("M", 3))
    facets = {
        "sizes": Facet("strings", missing=1, distinct=4, values=sizes, spread=None),
        "colour": Facet("string", missing=1, distinct=9, values=(("red", 2),), spread=None),
    }
    table = _facets(SearchResult([], False, {}, matching=4, facets=facets))
    _, values, products = ([str(cell) for cell in column.cells] for column in table.columns)
    assert values == ["S", "M", "2 others", "none", "red", "8 others", "none"]
    assert products == ["3", "3", "–", "1", "2", "1", "1"]


def test_a_title_cannot_steer_the_terminal(shell: Shell, snapshot: Snapshot) -> None:
    assert "\x1b" in snapshot.item(3).title
    ran = shell("search", "red", "-k", "96", "--candidates", "96")
    assert "\x1b" not in ran.out
    assert "[red]bold[/red] <b> [31mhat</b>" in ran.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", "-k", "5"], "the text is empty"),
        (["a" * 10_000], "the text has 10,000 characters"),
        (["\udcff"], "the text is no valid Unicode"),
        (["red", "-k", "0"], "k is 0: choose 1 to 1,000"),
        (["red", "-k", "1000000"], "k is 1000000: choose 1 to 1,000"),
        (["red", "--candidates", "0"], "candidates is 0"),
        (["red", "--filter", "colour=black"], "--filter is not JSON"),
        (["red", "--filter", "[]"], "filters: a list is no filter"),
        (["red", "--filter", '{"color": "a"}'], '(is "colour" meant?)'),
        (["red", "--facet", "color"], "facets.0: there is no attribute"),
        (["red", "--facet-values", "0"], "max_facet_values is 0"),
        ([], "either a text or --image"),
        (["red", "--image", "a.jpg"], "either a text or --image"),
        (["--image", "/nowhere/a.jpg"], "/nowhere/a.jpg cannot be read: No such file"),
        (["--image", "/"], "/ cannot be read: Is a directory"),
        (["red", "--bundle", "/nowhere"], "/nowhere is no model bundle"),
        (["red", "--snapshots", "/nowhere"], "there is no snapshot in /nowhere"),
        (["red", "--device", "tpu"], "FASHIONBERT_DEVICE"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, shell: Shell) -> None:
    assert message in refused(shell("search", *arguments))


def test_bad_pictures(
    bad_picture: Any, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASHIONBERT_MAX_UPLOAD_BYTES", "150000")
    path = tmp_path / "picture"
    path.write_bytes(bad_picture.data)
    refused(shell("search", "--image", path))


def test_another_models_snapshot(shell: Shell, bundle: Bundle, other_bundle: Bundle) -> None:
    for command in (["search", "red"], ["serve", "--port", "0"]):
        message = refused(shell(*command, "--bundle", other_bundle.path))
        assert bundle.model_id in message
        assert other_bundle.model_id in message


@pytest.mark.parametrize("name", FILES)
def test_a_bundle_with_a_flipped_byte(
    name: str, shell: Shell, bundle: Bundle, feed: Path, demo_catalogue: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "bundle"
    shutil.copytree(bundle.path, damaged)
    data = bytearray((damaged / name).read_bytes())
    data[len(data) // 3] ^= 0x10
    (damaged / name).write_bytes(data)
    out = tmp_path / "snapshots"
    build = ["index", "build", feed, "--images", demo_catalogue / "images.tar", "--out", out]
    for command in (["search", "red"], ["serve", "--port", "0"], build):
        message = refused(shell(*command, "--bundle", damaged))
        assert f"{damaged / name} has been changed" in message
    assert not out.exists()
