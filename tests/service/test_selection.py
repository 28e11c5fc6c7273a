from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.delta_records import Delete
from index.live_index import LiveIndex
from index.snapshot import Snapshot
from model.engine import Engine
from service.errors import QueryError
from service.records import SearchLimits, SearchResult, Selection
from service.search import Searcher

QUERY = "a navy coat"


@pytest.fixture(scope="module")
def attributes(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [item.attributes for item in snapshot.items]


@pytest.fixture(scope="module")
def colour(attributes: list[dict[str, Any]]) -> str:
    """One that several products have, but far from all."""
    return str(Counter(row["colour"] for row in attributes).most_common(1)[0][0])


def search(direction: str, searcher: Searcher, photo: bytes, **options: Any) -> SearchResult:
    match direction:
        case "text":
            return searcher.search_text(QUERY, **options)
        case "image":
            return searcher.search_image(photo, **options)
        case _:
            return searcher.search_item(searcher.snapshot.ids[7], **options)


@pytest.mark.parametrize("direction", ["text", "image", "item"])
@pytest.mark.parametrize("rerank", [True, False])
def test_only_products_that_match_are_found_and_all_of_them(
    direction: str,
    rerank: bool,
    searcher: Searcher,
    photo: bytes,
    attributes: list[dict[str, Any]],
    colour: str,
) -> None:
    everything = search(direction, searcher, photo, k=200, candidates=200, rerank=rerank)
    scores = {hit.item.id: hit.score for hit in everything.hits}
    for filters, matches in (
        ({"colour": colour}, lambda row: row["colour"] == colour),
        ({"colour": {"not": colour}}, lambda row: row["colour"] != colour),
        (
            {"price": {"lt": 40}, "not": {"colour": colour}},
            lambda row: row["price"] < 40 and row["colour"] != colour,
        ),
    ):
        expected = {searcher.snapshot.ids[n] for n, row in enumerate(attributes) if matches(row)}
        assert 0 < len(expected) < len(attributes)
        options = {"rerank": rerank, "selection": Selection(filters)}
        result = search(direction, searcher, photo, k=200, candidates=200, **options)
        assert result.matching == len(result.hits) == len(expected)
        assert {hit.item.id for hit in result.hits} == expected
        assert [hit.rank for hit in result.hits] == list(range(1, len(expected) + 1))
        assert sorted(hit.recall_rank for hit in result.hits) == [h.rank for h in result.hits]
        # In the order that they have among all products, with the same scores.
        kept = [hit.item.id for hit in everything.hits if hit.item.id in expected]
        if not rerank:
            assert [hit.item.id for hit in result.hits] == kept
        for hit in result.hits:
            if rerank:
                assert hit.score == pytest.approx(scores[hit.item.id], abs=1e-4)
        few = search(direction, searcher, photo, k=3, candidates=2, **options)
        assert [hit.item.id in expected for hit in few.hits] == [True] * 3
        assert "filter" in few.timings


@pytest.mark.parametrize("direction", ["text", "image", "item"])
def test_a_filter_that_nothing_matches(direction: str, searcher: Searcher, photo: bytes) -> None:
    selection = Selection({"price": {"lt": -1}}, ("colour", "price"))
    result = search(direction, searcher, photo, selection=selection)
    assert (result.hits, result.matching, result.degraded) == ([], 0, None)
    assert result.facets["colour"].values == ()
    assert result.facets["price"].spread is None


def test_facets_count_what_the_filter_leaves(
    searcher: Searcher, photo: bytes, attributes: list[dict[str, Any]], colour: str
) -> None:
    selection = Selection({"colour": colour}, ("product_type", "attributes.price"), 3)
    rows = [row for row in attributes if row["colour"] == colour]
    counts = Counter(row["product_type"] for row in rows)
    for direction in ("text", "image", "item"):
        result = search(direction, searcher, photo, k=1, selection=selection)
        types = result.facets["product_type"]
        assert types.distinct == len(counts)
        assert len(types.values) == min(3, len(counts))
        assert all(counts[value] == count for value, count in types.values)
        assert [n for _, n in types.values] == sorted(counts.values(), reverse=True)[:3]
        spread = result.facets["attributes.price"].spread
        assert spread is not None
        assert spread.smallest == min(row["price"] for row in rows)
        assert sum(bucket.count for bucket in spread.histogram) == len(rows)
        assert "facets" in result.timings
    whole = searcher.search_text(QUERY, k=1, selection=Selection(None, ("colour",), 100))
    assert whole.matching == len(attributes)
    assert dict(whole.facets["colour"].values) == Counter(row["colour"] for row in attributes)


@pytest.mark.parametrize(
    ("selection", "code", "field"),
    [
        (Selection({"colour": 5}), "invalid_filter", "filters.colour"),
        (Selection({"and": [{"x": 5}]}), "unknown_attribute", "filters.and.0.x"),
        (Selection(None, ("colour", "x")), "unknown_attribute", "facets.1"),
        (Selection(None, ("colour",) * 17), "out_of_range", "facets"),
        (Selection(None, (), 0), "out_of_range", "max_facet_values"),
        (Selection(None, (), 101), "out_of_range", "max_facet_values"),
    ],
)
@pytest.mark.parametrize("direction", ["text", "image", "item"])
def test_what_is_refused(
    direction: str, selection: Selection, code: str, field: str, searcher: Searcher, photo: bytes
) -> None:
    with pytest.raises(QueryError) as caught:
        search(direction, searcher, photo, selection=selection)
    assert (caught.value.code, caught.value.field) == (code, field)


def test_limits_are_the_searchers(engine: Engine, snapshot: Snapshot) -> None:
    searcher = Searcher(engine, snapshot, SearchLimits(max_facets=1, max_facet_values=2))
    with pytest.raises(QueryError, match="ask for at most 1"):
        searcher.search_text("x", selection=Selection(None, ("colour", "price")))
    with pytest.raises(QueryError, match="choose 1 to 2"):
        searcher.search_text("x", selection=Selection(None, ("colour",), 3))


def test_products_with_several_pictures_count_once(searcher: Searcher, snapshot: Snapshot) -> None:
    views = np.bincount(snapshot.product_of_image)
    assert views.max() > 1
    price = snapshot.item(int(views.argmax())).attributes["price"]
    result = searcher.search_text(QUERY, k=5, selection=Selection({"price": price}))
    ids = [hit.item.id for hit in result.hits]
    assert len(set(ids)) == len(ids) == min(5, result.matching)


def test_what_was_deleted_counts_no_more(
    engine: Engine, snapshot: Snapshot, root: Path, attributes: list[dict[str, Any]]
) -> None:
    with LiveIndex.open(root) as live:
        live.exchange([Delete(id) for id in snapshot.ids[:5]])
        searcher = Searcher(engine, live.latest)
    left = Counter(row["colour"] for row in attributes[5:])
    whole = searcher.search_text(QUERY, k=1, selection=Selection(None, ("colour",), 100))
    assert whole.matching == len(attributes) - 5
    assert dict(whole.facets["colour"].values) == left
    assert whole.facets["colour"].missing == 0
    for colour, count in left.items():
        some = searcher.search_text(QUERY, k=1, selection=Selection({"colour": colour}))
        assert some.matching == count
        # A filter that what is gone would match too.
        others = Selection({"not": {"colour": colour}}, ("colour",), 100)
        rest = searcher.search_text(QUERY, k=1, selection=others)
        assert rest.matching == len(attributes) - 5 - count
        assert rest.facets["colour"].distinct == len(left) - 1
