"""`PUT` and `DELETE /v1/items/{id}`."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from index.compact import compact
from index.snapshot import Snapshot

Make = Callable[..., Any]


def test_put_search_get_delete(
    picture: Make, product: Make, found: Make, writing: httpx.Client, snapshot: Snapshot
) -> None:
    before = len(found(writing, rerank=False))
    put = writing.put("/v1/items/new", json=product(attributes={"colour": "red", "sale": True}))
    assert put.status_code == 201
    assert put.json() == {
        "id": "new",
        "outcome": "created",
        "snapshot": f"{snapshot.name}+1",
        "truncated": False,
    }
    assert writing.get("/v1/items/new").json() == {
        "id": "new",
        "title": "A dress",
        "text": "A dress. Long.",
        "attributes": {"colour": "red", "sale": True},
        "views": 1,
    }
    image = writing.get("/v1/items/new/image")
    assert (image.content, image.headers["content-type"]) == (picture("red"), "image/jpeg")
    assert len(found(writing, rerank=False)) == before + 1
    answer = writing.post(
        "/v1/search/image", json={"image": base64.b64encode(picture("red")).decode(), "k": 200}
    )
    assert answer.json()["snapshot"] == f"{snapshot.name}+1"
    assert "new" in [hit["id"] for hit in answer.json()["hits"]]
    scores = writing.post("/v1/match", json={"pairs": [{"text": "dress", "image_item_id": "new"}]})
    assert scores.status_code == 200

    gone = writing.delete("/v1/items/new")
    assert (gone.status_code, gone.json()["outcome"]) == (200, "deleted")
    assert writing.get("/v1/items/new").status_code == 404
    assert writing.get("/v1/items/new/image").status_code == 404
    assert "new" not in found(writing)
    again = writing.delete("/v1/items/new")
    assert (again.status_code, again.json()["outcome"]) == (200, "absent")


def test_a_product_of_the_snapshot_is_replaced(
    picture: Make, product: Make, found: Make, writing: httpx.Client, snapshot: Snapshot
) -> None:
    id = snapshot.ids[7]
    first = writing.get(f"/v1/items/{id}/image")
    put = writing.put(f"/v1/items/{id}", json=product("blue", text="A blue hat"))
    assert (put.status_code, put.json()["outcome"]) == (200, "replaced")
    assert writing.get(f"/v1/items/{id}").json()["text"] == "A blue hat"
    second = writing.get(f"/v1/items/{id}/image", headers={"If-None-Match": first.headers["etag"]})
    assert (second.status_code, second.content) == (200, picture("blue"))
    ids = found(writing, rerank=False)
    assert ids.count(id) == 1
    assert len(ids) == len(snapshot)


def test_html_is_read_as_text(product: Make, writing: httpx.Client) -> None:
    body = product(title="Dress &amp; belt", description="<p>Long.<br>Soft <b>cotton</b></p>")
    assert writing.put("/v1/items/new", json=body).status_code == 201
    found = writing.get("/v1/items/new").json()
    assert found["text"] == "Dress & belt. Long. Soft cotton"
    assert found["title"] == "Dress &amp; belt"


def test_the_pictures_may_stay(writing: httpx.Client, snapshot: Snapshot) -> None:
    id = snapshot.ids[9]
    before = writing.get(f"/v1/items/{id}").json()
    image = writing.get(f"/v1/items/{id}/image").content
    body = {"title": before["title"], "text": before["text"], "attributes": {"price": 1}}
    assert writing.put(f"/v1/items/{id}", json=body).status_code == 200
    after = writing.get(f"/v1/items/{id}").json()
    assert after == {**before, "attributes": {"price": 1.0}}
    assert writing.get(f"/v1/items/{id}/image").content == image
    new = writing.put("/v1/items/nobody", json=body)
    assert (new.status_code, new.json()["code"]) == (422, "invalid_request")
    assert "needs at least one picture" in new.json()["detail"]


def test_as_a_form(picture: Make, writing: httpx.Client) -> None:
    fields = json.dumps({"title": "A hat", "attributes": {"price": 3.5}})
    files = [
        ("image", ("1.png", picture("red", format="PNG"), "image/png")),
        ("image", ("2.webp", picture("green", format="WEBP"), "image/webp")),
    ]
    put = writing.put("/v1/items/form", data={"product": fields}, files=files)
    assert put.status_code == 201, put.text
    assert writing.get("/v1/items/form").json()["views"] == 2
    second = writing.get("/v1/items/form/image", params={"view": 1})
    assert second.headers["content-type"] == "image/webp"
    kept = writing.put("/v1/items/form", files={"product": (None, fields)})
    assert (kept.status_code, writing.get("/v1/items/form").json()["views"]) == (200, 2)
    for data, sent in (
        ({}, files),
        ({"product": fields, "other": "1"}, files),
        ({"product": "{"}, files),
        ({"product": '{"colour": "red"}'}, files),
        ({"product": fields, "image": "text"}, []),
    ):
        refused = writing.put("/v1/items/form", data=data, files=sent or {"x": b""})
        assert refused.status_code in (400, 422), refused.text
    short = writing.put(
        "/v1/items/form",
        content=b"--x\r\nContent-Disposition: form-data; name=product\r\n\r\n{}\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert (short.status_code, short.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("id", ["summer/new/1", "été ✓ #2?a=b&c%20", "../x", "-x", "a/images"])
def test_odd_ids(product: Make, found: Make, writing: httpx.Client, id: str) -> None:
    address = f"/v1/items/{quote(id, safe='')}"
    put = writing.put(address, json=product())
    assert (put.status_code, put.json()["id"]) == (201, id)
    assert id in found(writing, rerank=False)
    assert writing.delete(address).json()["outcome"] == "deleted"


def test_odd_attributes_are_kept_as_a_feed_would(product: Make, writing: httpx.Client) -> None:
    attributes = {"price": 3, "none": None, "blank": "  ", "big": 1 << 70, "colour": " red "}
    put = writing.put("/v1/items/new", json=product(attributes=attributes))
    assert put.status_code == 201, put.text
    assert writing.get("/v1/items/new").json()["attributes"] == {
        "price": 3.0,
        "big": str(1 << 70),
        "colour": "red",
    }


def test_attributes_with_several_values(batch: Make, product: Make, writing: httpx.Client) -> None:
    lists = {"sizes": ["M", " S", "M", ""], "none": [], "tags": ["a"]}
    put = writing.put("/v1/items/new", json=product(attributes=lists))
    assert put.status_code == 201, put.text
    kept = {"sizes": ["M", "S"], "tags": ["a"]}
    assert writing.get("/v1/items/new").json()["attributes"] == kept
    one = {"op": "put", "id": "two", **product(attributes={"sizes": ["M", "XL"]})}
    assert batch(writing, one)["refused"] == 0
    assert writing.get("/v1/index").json()["attributes"]["sizes"] == "strings"

    request = {"query": "dress", "k": 5, "facets": ["sizes"], "filters": {"sizes": ["S", "XL"]}}
    answer = writing.post("/v1/search/text", json=request).json()
    assert {hit["id"]: hit["item"]["attributes"] for hit in answer["hits"]} == {
        "new": kept,
        "two": {"sizes": ["M", "XL"]},
    }
    values = {each["value"]: each["count"] for each in answer["facets"]["sizes"]["values"]}
    assert values == {"M": 2, "S": 1, "XL": 1}


def test_attributes_are_of_the_types_that_the_snapshot_has(
    product: Make, found: Make, worker: Make, root: Path
) -> None:
    """Once `sizes` are in a snapshot: one string is a list, and a whole number a double."""
    with worker() as client:
        sizes = product(attributes={"sizes": ["S", "M"]})
        assert client.put("/v1/items/new", json=sizes).status_code == 201
    compact(root)
    with worker() as client:
        one = product(attributes={"sizes": "XL", "price": 3})
        assert client.put("/v1/items/one", json=one).status_code == 201
        # As it was sent: to Python 3 is 3.0.
        assert '"attributes":{"sizes":["XL"],"price":3.0}' in client.get("/v1/items/one").text
        assert found(client, rerank=False, filters={"sizes": "XL", "price": 3}) == ["one"]
