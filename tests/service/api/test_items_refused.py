"""Puts that are not taken, and what is said of them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image

from index.snapshot import Snapshot

Batch = Callable[..., dict[str, Any]]


def picture(colour: str, side: int = 80, format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side + 16), colour).save(buffer, format)
    return buffer.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


PRODUCT = {
    "title": "A dress",
    "attributes": {"colour": "red"},
    "images": [encoded(picture("red"))],
}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"title": "x", "images": []}, 422, "invalid_request"),
        ({"title": "x", "images": ["?"]}, 400, "invalid_base64"),
        ({"title": "x", "images": [encoded(b"text")]}, 400, "not_an_image"),
        ({"title": "x", "images": [encoded(picture("red", 300)[:-300])]}, 400, "truncated"),
        ({"title": "x", "images": [encoded(picture("red", format="GIF"))]}, 415, None),
        ({"title": "x", "images": [encoded(picture("red") + bytes(150_000))]}, 413, None),
        ({"title": "x", "images": [encoded(picture("red", 8))] * 17}, 422, "invalid_request"),
        ({"images": [encoded(picture("red"))]}, 400, "empty_text"),
        ({**PRODUCT, "text": " "}, 400, "empty_text"),
        ({**PRODUCT, "text": "x" * 6000}, 422, "text_too_long"),
        ({**PRODUCT, "description": "x" * 6000}, 422, "text_too_long"),
        ({**PRODUCT, "description": f"<p>{'<b>' * 30_000}Top</p>"}, 422, "text_too_long"),
        ({**PRODUCT, "attributes": {"price": "cheap"}}, 422, "invalid_request"),
        ({**PRODUCT, "attributes": {"price": True}}, 422, "invalid_request"),
        ({**PRODUCT, "attributes": {"": 1}}, 422, "invalid_request"),
        ({**PRODUCT, "attributes": {"a" * 513: 1}}, 422, "invalid_request"),
        ({**PRODUCT, "attributes": {"sizes": ["S", 1]}}, 422, "invalid_request"),
        ({**PRODUCT, "attributes": {"sizes": {"eu": 38}}}, 422, "invalid_request"),
        (
            {**PRODUCT, "attributes": {"sizes": [f"{n}" for n in range(1025)]}},
            422,
            "invalid_request",
        ),
        ({**PRODUCT, "attributes": {"colour": ["red", "blue"]}}, 422, "invalid_request"),
        ({**PRODUCT, "attributes": {f"a{n}": n for n in range(300)}}, 422, "invalid_request"),
        ({**PRODUCT, "attributes": 3}, 422, "invalid_request"),
        ({**PRODUCT, "price": 3}, 422, "invalid_request"),
        ([1], 422, "invalid_request"),
    ],
)
def test_what_is_not_taken(
    writing: httpx.Client, snapshot: Snapshot, body: Any, status: int, code: str | None
) -> None:
    refused = writing.put("/v1/items/new", json=body)
    assert refused.status_code == status, refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    if code is not None:
        assert refused.json()["code"] == code
    assert writing.get("/v1/items/new").status_code == 404
    assert writing.get("/v1/index").json()["snapshot"] == snapshot.name


@pytest.mark.parametrize(
    ("id", "fields", "location"),
    [
        ("a", {"attributes": {"price": "cheap"}}, "body.attributes.price"),
        ("a", {"images": ["%"]}, "body.images.0"),
        ("a", {"images": []}, "body.images"),
        ("a", {"images": [*PRODUCT["images"], encoded(b"text")]}, "body.images.1"),
        ("a", {"text": "\u200b"}, "body.text"),
        ("a", {"title": "", "attributes": {}}, "body.text"),
        ("a", {"title": "x" * 6000, "text": "A dress"}, "body.title"),
        ("%20a", {}, "path.item_id"),
    ],
)
def test_the_field_to_blame_is_named(
    writing: httpx.Client, id: str, fields: dict[str, Any], location: str
) -> None:
    problem = writing.put(f"/v1/items/{id}", json={**PRODUCT, **fields}).json()
    assert problem["errors"] == [{"location": location, "message": problem["detail"]}]


def test_bad_bodies_and_ids(writing: httpx.Client) -> None:
    assert writing.put("/v1/items/a", content=b"{").status_code == 415
    json_type = {"Content-Type": "application/json"}
    assert writing.put("/v1/items/a", content=b"{", headers=json_type).status_code == 400
    deep = writing.post("/v1/items:batch", content=b"[" * 100_000, headers=json_type)
    assert (deep.status_code, deep.json()["code"]) == (400, "malformed_json")
    assert writing.put(f"/v1/items/{'a' * 600}", json=PRODUCT).status_code == 422
    for id in ("%20a", "%20"):
        assert writing.put(f"/v1/items/{id}", json=PRODUCT).status_code == 422
        deleted = writing.delete(f"/v1/items/{id}")
        assert deleted.status_code == 422
        assert deleted.json()["errors"][0]["location"] == "path.item_id"
    assert writing.delete("/v1/items/").status_code == 422


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("attribute", ["price", "weight"])  # one that the catalogue has, and a new
def test_a_number_is_finite(
    attribute: str, number: str, writing: httpx.Client, snapshot: Snapshot
) -> None:
    body = json.dumps({**PRODUCT, "attributes": {attribute: 7.25}}).replace("7.25", number)
    json_type = {"Content-Type": "application/json"}
    refused = writing.put("/v1/items/a", content=body, headers=json_type)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert refused.json()["errors"][0]["location"] == f"body.attributes.{attribute}"
    operations = '[{"op": "put", "id": "a", ' + body[1:] + "]"
    told = writing.post("/v1/items:batch", content=operations, headers=json_type).json()
    assert told["refused"] == 1
    assert f"attributes.{attribute} is " in told["results"][0]["error"]["detail"]
    assert writing.get("/v1/index").json()["snapshot"] == snapshot.name


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"sizes": [38, 40]},
            "body.attributes.sizes: an attribute is a string, a number, true or false, a list of "
            "strings, or null",
        ),
        (
            {"colour": ["a", "b"]},
            "attribute 'colour' is one string in this catalogue, not ['a', 'b']",
        ),
        ({"price": ["9"]}, "attribute 'price' is a number in this catalogue, not ['9']"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_once(
    attributes: dict[str, Any], message: str, writing: httpx.Client, batch: Batch
) -> None:
    refused = writing.put("/v1/items/a", json={**PRODUCT, "attributes": attributes})
    assert (refused.status_code, refused.json()["detail"]) == (422, message)
    told = batch(writing, {"op": "put", "id": "a", **PRODUCT, "attributes": attributes})
    assert told["refused"] == 1
    assert message.removeprefix("body.") in told["results"][0]["error"]["detail"]
