from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from index.snapshot import Snapshot
from service.records import Selection
from service.search import Searcher

TEXT, IMAGE = "/v1/search/text", "/v1/search/image"
FILTERS: dict[str, Any] = {
    "or": [{"colour": ["black", "navy", "red"]}, {"price": {"gte": 60}}],
    "not": {"product_type": {"not": {"exists": True}}},
}
FACETS = ["product_type", "price"]


@pytest.fixture(scope="module")
def expected(searcher: Searcher) -> list[str]:
    hits = searcher.search_text("coat", 200, 100, selection=Selection(FILTERS)).hits
    assert 0 < len(hits) < len(searcher.snapshot)
    return [hit.item.id for hit in hits]


def test_filters_and_facets_of_a_text_search(
    client: httpx.Client, searcher: Searcher, expected: list[str]
) -> None:
    request = {"query": "coat", "k": 200, "candidates": 100, "filters": FILTERS, "facets": FACETS}
    for _ in range(2):  # also when it comes from the cache
        body = client.post(TEXT, json=request).json()
        assert [hit["id"] for hit in body["hits"]] == expected
        assert body["matching"] == len(expected)
        types = body["facets"]["product_type"]
        assert sum(one["count"] for one in types["values"]) <= len(expected)
        assert (types["type"], types["missing"], types["spread"]) == ("string", 0, None)
        spread = body["facets"]["price"]["spread"]
        assert sum(one["count"] for one in spread["histogram"]) == len(expected)
        assert spread["min"] == spread["histogram"][0]["low"]
        assert spread["max"] == spread["histogram"][-1]["high"]
    few = client.post(TEXT, json=request | {"max_facet_values": 1}).json()
    assert len(few["facets"]["product_type"]["values"]) == 1
    none = client.post(TEXT, json={"query": "coat", "k": 1}).json()
    assert (none["matching"], none["facets"]) == (len(searcher.snapshot), None)


def test_a_picture_search_takes_them_as_json_and_in_a_form(
    client: httpx.Client, photo: bytes, snapshot: Snapshot, expected: list[str]
) -> None:
    options = {"k": 200, "candidates": 100, "filters": FILTERS, "facets": FACETS}
    by_item = client.post(IMAGE, json={"item_id": snapshot.ids[5], **options})
    fields = {
        name: value if isinstance(value, int) else json.dumps(value)
        for name, value in options.items()
    }
    by_file = client.post(IMAGE, files={"image": photo}, data=fields)
    for response in (by_item, by_file):
        body = response.json()
        assert {hit["id"] for hit in body["hits"]} == set(expected)
        assert body["matching"] == len(expected)
        assert set(body["facets"]) == set(FACETS)


def test_answers_with_other_filters_are_other_answers(client: httpx.Client) -> None:
    def matching(filters: Any) -> int:
        body = client.post(TEXT, json={"query": "coat", "k": 1, "filters": filters}).json()
        return int(body["matching"])

    below = [matching({"price": {"lt": limit}}) for limit in (0, 30, 30.0, 60, 10**6)]
    assert below[0] == 0 < below[1] == below[2] < below[3] < below[4]


@pytest.mark.parametrize(
    ("filters", "code", "location"),
    [
        ({"color": "black"}, "unknown_attribute", "body.filters.color"),
        ({"or": [{"colour": "a"}, {"x": 1}]}, "unknown_attribute", "body.filters.or.1.x"),
        ({"price": "cheap"}, "invalid_filter", "body.filters.price"),
        ({"price": {"lte": None}}, "invalid_filter", "body.filters.price.lte"),
        ({"price": {"lte": float("nan")}}, "invalid_filter", "body.filters.price.lte"),
        ({"price": [1, "2"]}, "invalid_filter", "body.filters.price.1"),
        ({"price": 10**30}, "invalid_filter", "body.filters.price"),
        ({"colour": "\ud800"}, "invalid_filter", "body.filters.colour"),
        ({"\ud800": "x"}, "invalid_filter", "body.filters"),
        ({"or": [{"\ud800": 1}]}, "invalid_filter", "body.filters"),
        ({"price": {"\ud800": 1}}, "invalid_filter", "body.filters"),
        ({"and": {}}, "invalid_filter", "body.filters.and"),
        ({"not": [1]}, "invalid_filter", "body.filters.not"),
        ({"or": [{"colour": "a"}] * 300}, "invalid_filter", None),
        ({"price": list(range(2000))}, "invalid_filter", "body.filters.price.1024"),
        ([], "invalid_request", "body.filters"),
        ("black", "invalid_request", "body.filters"),
    ],
)
def test_bad_filters(
    filters: Any, code: str, location: str | None, client: httpx.Client, photo: bytes
) -> None:
    data = json.dumps({"query": "coat", "filters": filters})
    headers = {"Content-Type": "application/json"}
    as_text = client.post(TEXT, content=data, headers=headers)
    by_item = client.post(IMAGE, content=data.replace('"query"', '"item_id"', 1), headers=headers)
    form = client.post(IMAGE, files={"image": photo}, data={"filters": json.dumps(filters)})
    for response in (as_text, by_item, form):
        problem = response.json()
        if response is not as_text and "ud800" in data:  # this parser takes no such JSON at all
            assert response.status_code in (400, 422)
            continue
        assert (response.status_code, problem["code"]) == (422, code), problem
        if location is not None:
            assert problem["errors"][0]["location"] == location
    if code == "unknown_attribute":
        assert "colour (string)" in as_text.json()["detail"]


@pytest.mark.parametrize("levels", [9, 63, 70, 500, 20_000])
def test_filters_that_are_too_deep(levels: int, client: httpx.Client, photo: bytes) -> None:
    filters = '{"not":' * levels + "{}" + "}" * levels
    response = client.post(
        TEXT,
        content=f'{{"query": "coat", "filters": {filters}}}',
        headers={"Content-Type": "application/json"},
    )
    form = client.post(IMAGE, files={"image": photo}, data={"filters": filters})
    for one in (response, form):
        expected = ("invalid_filter", "invalid_request", "bad_request", "malformed_json")
        assert one.json()["code"] in expected
        assert levels > 400 or one.json()["code"] == "invalid_filter"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"filters": "{"}, "invalid_request"),
        ({"filters": "colour=black"}, "invalid_request"),
        ({"facets": "colour"}, "invalid_request"),
        ({"facets": '["x"]'}, "unknown_attribute"),
        ({"facets": json.dumps(["colour"] * 20)}, "out_of_range"),
        ({"max_facet_values": "0"}, "out_of_range"),
        ({"max_facet_values": "101"}, "out_of_range"),
        ({"max_facet_values": "many"}, "invalid_request"),
    ],
)
def test_bad_fields_of_a_form(
    fields: dict[str, str], code: str, client: httpx.Client, photo: bytes
) -> None:
    response = client.post(IMAGE, files={"image": photo}, data=fields)
    assert (response.status_code, response.json()["code"]) == (422, code)


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["black", "navy"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["and", "or", "not", "gt", "lte", "exists", "colour", "price"]),
                st.text(max_size=4),
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@examples(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(filters=ANYTHING)
def test_any_json_gets_hits_or_a_problem(filters: Any, client: httpx.Client) -> None:
    request = {"query": "coat", "k": 1, "rerank": False, "filters": filters}
    response = client.post(
        TEXT, content=json.dumps(request), headers={"Content-Type": "application/json"}
    )
    if response.status_code == 200:
        assert len(response.json()["hits"]) == min(1, response.json()["matching"])
    else:
        assert response.status_code == 422
        assert response.json()["code"] in ("invalid_request", "invalid_filter", "unknown_attribute")
