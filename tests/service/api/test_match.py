from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from index.snapshot import Snapshot


def test_match(client: httpx.Client, snapshot: Snapshot, photo: bytes) -> None:
    encoded = base64.b64encode(photo).decode()
    item = snapshot.item(snapshot.product_of_image[5])
    pairs = [
        {"text": item.text, "image": encoded},
        {"text_item_id": item.id, "image": encoded},
        {"text": "striped " * 120, "image_item_id": item.id},
    ]
    body = client.post("/v1/match", json={"pairs": pairs, "timings": True}).json()
    given, stored, long = body["scores"]
    assert given["score"] == pytest.approx(stored["score"], abs=1e-4)
    assert 0 < given["probability"] < 1
    assert [one["truncated"] for one in (given, stored, long)] == [False, False, True]
    assert (body["model"], body["snapshot"]) == (snapshot.model_id, snapshot.name)
    assert {"decode", "encode", "gather", "rerank", "total"} == set(body["timings"])


GOOD = {"text": "red", "image_item_id": "summer/dresses/1"}


@pytest.mark.parametrize(
    ("pairs", "status", "code"),
    [
        ([], 422, "out_of_range"),
        ([GOOD] * 9, 422, "out_of_range"),
        ([GOOD, {"text": "red"}], 422, "invalid_request"),
        ([GOOD, {"image_item_id": "summer/dresses/1"}], 422, "invalid_request"),
        ([{**GOOD, "text_item_id": "summer/dresses/1"}], 422, "invalid_request"),
        ([{**GOOD, "image": "Zm9v"}], 422, "invalid_request"),
        ([GOOD, {**GOOD, "text": ""}], 400, "empty_text"),
        ([GOOD, {**GOOD, "text": "a" * 10_000}], 422, "text_too_long"),
        ([GOOD, {"text": "red", "image": "?"}], 400, "invalid_base64"),
        ([GOOD, {"text": "red", "image": "Zm9v"}], 400, "not_an_image"),
        ([GOOD, {"text": "red", "image_item_id": "nobody"}], 404, "unknown_item"),
    ],
)
def test_bad_pairs(pairs: Any, status: int, code: str, client: httpx.Client) -> None:
    response = client.post("/v1/match", json={"pairs": pairs})
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code)
    if len(pairs) == 2:
        assert [one["location"].startswith("body.pairs.1") for one in problem["errors"]] == [True]


def test_bad_pictures(bad_picture: Any, client: httpx.Client) -> None:
    encoded = base64.b64encode(bad_picture.data).decode()
    response = client.post("/v1/match", json={"pairs": [{"text": "red", "image": encoded}]})
    assert (response.status_code, response.json()["code"]) == (bad_picture.status, bad_picture.code)
