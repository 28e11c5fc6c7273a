"""`POST /v1/items:batch`."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from index.snapshot import Snapshot

Make = Callable[..., Any]


def test_a_batch(
    batch: Make, picture: Make, product: Make, writing: httpx.Client, snapshot: Snapshot
) -> None:
    old = snapshot.ids[11]
    answer = batch(
        writing,
        {"op": "put", "id": "a", **product()},
        {"op": "delete", "id": old},
        {"op": "put", "id": "b", **product(images=["?"])},
        {"op": "delete", "id": "nobody"},
        {"op": "put", "id": "c"},
        {"op": "replace", "id": "d"},
        7,
        {"op": "put", "id": "a", "title": "again"},
        {"op": "put", "id": "a", **product("blue")},
    )
    assert [result["outcome"] for result in answer["results"]] == [
        "created",
        "deleted",
        "refused",
        "absent",
        *["refused"] * 4,
        "replaced",
    ]
    assert [result["id"] for result in answer["results"]] == [
        "a", old, "b", "nobody", "c", "d", None, "a", "a",
    ]  # fmt: skip
    codes = [result["error"] and result["error"]["code"] for result in answer["results"]]
    assert codes[2] == "invalid_base64"
    assert set(codes[4:8]) == {"invalid_request", "empty_text"} or codes[4] == "invalid_request"
    assert answer["refused"] == 5
    assert answer["snapshot"] == f"{snapshot.name}+4"
    assert writing.get("/v1/items/a/image").content == picture("blue")
    assert writing.get(f"/v1/items/{quote(old, safe='')}").status_code == 404
    all_refused = batch(writing, {"op": "put", "id": "x"}, 3)
    assert (all_refused["refused"], all_refused["snapshot"]) == (2, answer["snapshot"])


def test_what_was_refused_is_not_before(
    batch: Make, product: Make, writing: httpx.Client, snapshot: Snapshot
) -> None:
    """A put that keeps its pictures is the product's first write of the batch that counts."""
    old = snapshot.ids[11]
    answer = batch(
        writing,
        {"op": "put", "id": old, "title": "bad", "attributes": {"": 5}},
        {"op": "put", "id": old, "title": "good"},
        {"op": "put", "id": old, "title": "again"},
    )
    assert [each["outcome"] for each in answer["results"]] == ["refused", "replaced", "refused"]
    assert writing.get(f"/v1/items/{quote(old, safe='')}").json()["title"] == "good"


def test_refusals_in_words(batch: Make, writing: httpx.Client) -> None:
    answer = batch(writing, {"op": "x", "id": "a"}, {"id": "a"}, 7)
    assert [each["error"]["detail"] for each in answer["results"]] == [
        "0: `op` is neither `put` nor `delete`",
        "1: an operation has an `op`: `put` or `delete`",
        "2: an operation is an object",
    ]


def test_a_mark_of_byte_order(product: Make, writing: httpx.Client) -> None:
    line = json.dumps({"op": "put", "id": "a", **product()})
    for body, kind in ((f"[{line}]", "application/json"), (line, "application/x-ndjson")):
        content = f"\ufeff{body}".encode()
        answer = writing.post(
            "/v1/items:batch", content=content, headers={"Content-Type": kind}
        ).json()
        assert [each["outcome"] for each in answer["results"]] in (["created"], ["replaced"])


def test_a_batch_names_the_first_version_that_has_it(
    batch: Make, serve: Any, root: Path, snapshot: Snapshot
) -> None:
    with serve(snapshots=root) as running:
        writer = running.service.writer

        def write_once_more(version: str) -> None:
            writer.announce = lambda _: None
            writer.delete("another")

        writer.announce = write_once_more
        answer = batch(running.client, {"op": "delete", "id": "a"}, {"op": "delete", "id": "b"}, 7)
        assert answer["snapshot"] == f"{snapshot.name}+2"
        assert running.client.get("/v1/index").json()["snapshot"] == f"{snapshot.name}+3"


def test_a_batch_of_lines(product: Make, writing: httpx.Client) -> None:
    lines = [
        json.dumps({"op": "put", "id": "a", **product()}),
        "",
        "{",
        json.dumps({"op": "delete", "id": "a"}),
    ]
    answer = writing.post(
        "/v1/items:batch",
        content="\n".join(lines),
        headers={"Content-Type": "application/x-ndjson"},
    ).json()
    outcomes = [result["outcome"] for result in answer["results"]]
    assert outcomes == ["created", "refused", "deleted"]
    assert answer["results"][1]["error"]["code"] == "malformed_json"


def test_batches_that_are_refused(writing: httpx.Client) -> None:
    for operations in ([], [{"op": "delete", "id": "a"}] * 501):
        answer = writing.post("/v1/items:batch", json=operations)
        assert (answer.status_code, answer.json()["code"]) == (422, "out_of_range")
    assert writing.post("/v1/items:batch", json={}).status_code == 422
    assert writing.post("/v1/items:batch", content=b"x").status_code == 415


DELETE = '{"op":"delete","id":"nobody"}'


@pytest.mark.parametrize(
    "operations", [["1"] * 501, [DELETE] * 499 + ["1"] * 2, ["1"] * 50_000, [DELETE] * 501]
)
@pytest.mark.parametrize("separator", [",", "\n", "\r\n \r\n"])
def test_operations_that_cannot_be_read_count_too(
    separator: str, operations: list[str], writing: httpx.Client
) -> None:
    kind, whole = "application/x-ndjson", separator.join(operations)
    if separator == ",":
        kind, whole = "application/json", f"[{whole}]"
    headers = {"Content-Type": kind}
    answer = writing.post("/v1/items:batch", content=whole, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "out_of_range")
    assert answer.json()["detail"] == "there are more than 500 operations: send 1 to 500"
    assert answer.json()["errors"][0]["location"] == "body.operations"


def test_as_many_operations_as_are_taken(writing: httpx.Client) -> None:
    lines = "\n \n".join([DELETE] * 250 + ["1"] * 250) + "\n\n"
    headers = {"Content-Type": "application/x-ndjson"}
    answer = writing.post("/v1/items:batch", content=lines, headers=headers).json()
    assert (len(answer["results"]), answer["refused"]) == (500, 250)
    assert answer["results"][499]["error"]["detail"].startswith("499: ")


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
def test_a_batch_of_very_many_values(kind: str, serve: Any, root: Path) -> None:
    attributes = '{"a":[' + ",".join(["1"] * 1_000_000) + "]}"
    operation = f'{{"op":"put","id":"a","attributes":{attributes}}}'
    with serve(snapshots=root, max_body_bytes=4 * 1024**2) as running:
        content = f"[{operation}]" if kind == "application/json" else operation
        headers = {"Content-Type": kind}
        answer = running.client.post("/v1/items:batch", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["detail"].startswith("the JSON has more than the ")


def test_a_catalogue_that_was_emptied(
    batch: Make,
    picture: Make,
    product: Make,
    found: Make,
    writing: httpx.Client,
    snapshot: Snapshot,
) -> None:
    for start in range(0, len(snapshot), 20):
        batch(writing, *[{"op": "delete", "id": id} for id in snapshot.ids[start : start + 20]])
    assert found(writing) == []
    search = writing.post(
        "/v1/search/image", json={"image": base64.b64encode(picture("red")).decode()}
    )
    assert search.json()["hits"] == []
    writing.put("/v1/items/a", json=product())
    assert found(writing) == ["a"]
