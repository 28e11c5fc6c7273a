from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.delta_records import Delete, Put
from index.facets import count_facet
from index.filter_parser import parse_filter
from index.filters import evaluate
from index.live import LiveSnapshot
from index.live_index import LiveIndex
from index.snapshot import Snapshot

MakePut = Callable[..., Put]


@pytest.fixture
def written(own_root: Path, snapshot: Snapshot, make_put: MakePut) -> LiveSnapshot:
    """With products that were added, replaced and deleted."""
    with LiveIndex.open(own_root) as live:
        ids = snapshot.ids
        writes = [make_put("new", colour="brass"), make_put("gone"), make_put(ids[3], 1)]
        return live.exchange([*writes, Delete(ids[0]), Delete("gone"), Delete(ids[5])])[1]


@pytest.mark.parametrize(
    ("raw", "matches"),
    [
        ({}, lambda row: True),
        ({"colour": "brass"}, lambda row: row.get("colour") == "brass"),
        ({"colour": {"not": "brass"}}, lambda row: row.get("colour") != "brass"),
        ({"price": {"lt": 40}}, lambda row: row.get("price", 99) < 40),
        ({"not": {"price": {"lt": 40}}}, lambda row: not row.get("price", 99) < 40),
        ({"pattern": {"exists": False}}, lambda row: "pattern" not in row),
    ],
)
def test_filters_see_the_products_that_there_are(
    raw: Any, matches: Callable[[dict[str, Any]], bool], written: LiveSnapshot
) -> None:
    mask = (
        evaluate(parse_filter(raw, written.items.attribute_types), written.items)
        & written.items.live
    )
    expected = {item.id for item in written.items if matches(item.attributes)}
    assert {written.item(row).id for row in np.flatnonzero(mask).tolist()} == expected
    assert np.count_nonzero(mask) == len(expected)
    found, _ = written.search_texts(written.text_embeddings([1])[0], len(written), among=mask)
    assert {written.item(row).id for row in found.tolist()} == expected
    pictures, _ = written.search_images(
        written.image_embeddings([1])[0], 10_000, among=mask[written.product_of_image]
    )
    owners = written.product_of_image[pictures].tolist()
    assert {written.item(row).id for row in owners} == expected


def test_facets_count_the_products_that_there_are(written: LiveSnapshot) -> None:
    rows = [item.attributes for item in written.items]
    for name in ("colour", "price"):
        column = written.items.column(name)
        assert column is not None
        facet = count_facet(column, written.items.live, 1000)
        counts = Counter(row[name] for row in rows if name in row)
        assert dict(facet.values) == counts
        assert facet.missing == len(rows) - sum(counts.values())
        assert (facet.spread is None) == (name == "colour")
    assert facet.spread is not None
    assert sum(bucket.count for bucket in facet.spread.histogram) == sum(counts.values())
