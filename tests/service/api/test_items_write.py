from __future__ import annotations

import base64
import fcntl
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest
from PIL import Image

from index.snapshot import Snapshot
from service.api.app import create_app
from service.settings import Settings


def picture(colour: str, side: int = 80, format: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side + 16), colour).save(buffer, format)
    return buffer.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


Worker = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def worker(serve: Any, root: Path) -> Worker:
    """Starts a server that writes to `root`."""

    @contextmanager
    def run(**changes: Any) -> Iterator[httpx.Client]:
        with serve(snapshots=root, watch=0.02, **changes) as running:
            yield running.client

    return run


@pytest.fixture
def client(worker: Worker) -> Iterator[httpx.Client]:
    with worker() as client:
        yield client


def found(client: httpx.Client, **request: Any) -> list[str]:
    answer = client.post("/v1/search/text", json={"query": "dress", "k": 200, **request})
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def product(colour: str = "red", **fields: Any) -> dict[str, Any]:
    return {
        "title": "A dress",
        "description": "Long.",
        "attributes": {"colour": colour},
        "images": [encoded(picture(colour))],
        **fields,
    }


def test_put_search_get_delete(client: httpx.Client, snapshot: Snapshot) -> None:
    before = len(found(client, rerank=False))
    put = client.put("/v1/items/new", json=product(attributes={"colour": "red", "sale": True}))
    assert put.status_code == 201
    assert put.json() == {
        "id": "new",
        "outcome": "created",
        "snapshot": f"{snapshot.name}+1",
        "truncated": False,
    }
    assert client.get("/v1/items/new").json() == {
        "id": "new",
        "title": "A dress",
        "text": "A dress. Long.",
        "attributes": {"colour": "red", "sale": True},
        "views": 1,
    }
    image = client.get("/v1/items/new/image")
    assert (image.content, image.headers["content-type"]) == (picture("red"), "image/jpeg")
    assert len(found(client, rerank=False)) == before + 1
    answer = client.post("/v1/search/image", json={"image": encoded(picture("red")), "k": 200})
    assert answer.json()["snapshot"] == f"{snapshot.name}+1"
    assert "new" in [hit["id"] for hit in answer.json()["hits"]]
    scores = client.post("/v1/match", json={"pairs": [{"text": "dress", "image_item_id": "new"}]})
    assert scores.status_code == 200

    gone = client.delete("/v1/items/new")
    assert (gone.status_code, gone.json()["outcome"]) == (200, "deleted")
    assert client.get("/v1/items/new").status_code == 404
    assert client.get("/v1/items/new/image").status_code == 404
    assert "new" not in found(client)
    again = client.delete("/v1/items/new")
    assert (again.status_code, again.json()["outcome"]) == (200, "absent")


def test_a_product_of_the_snapshot_is_replaced(client: httpx.Client, snapshot: Snapshot) -> None:
    id = snapshot.ids[7]
    first = client.get(f"/v1/items/{id}/image")
    put = client.put(f"/v1/items/{id}", json=product("blue", text="A blue hat"))
    assert (put.status_code, put.json()["outcome"]) == (200, "replaced")
    assert client.get(f"/v1/items/{id}").json()["text"] == "A blue hat"
    second = client.get(f"/v1/items/{id}/image", headers={"If-None-Match": first.headers["etag"]})
    assert (second.status_code, second.content) == (200, picture("blue"))
    ids = found(client, rerank=False)
    assert ids.count(id) == 1
    assert len(ids) == len(snapshot)


def test_the_pictures_may_stay(client: httpx.Client, snapshot: Snapshot) -> None:
    id = snapshot.ids[9]
    before = client.get(f"/v1/items/{id}").json()
    image = client.get(f"/v1/items/{id}/image").content
    body = {"title": before["title"], "text": before["text"], "attributes": {"price": 1}}
    assert client.put(f"/v1/items/{id}", json=body).status_code == 200
    after = client.get(f"/v1/items/{id}").json()
    assert after == {**before, "attributes": {"price": 1.0}}
    assert client.get(f"/v1/items/{id}/image").content == image
    new = client.put("/v1/items/nobody", json=body)
    assert (new.status_code, new.json()["code"]) == (422, "invalid_request")
    assert "needs at least one picture" in new.json()["detail"]


def test_as_a_form(client: httpx.Client) -> None:
    fields = json.dumps({"title": "A hat", "attributes": {"price": 3.5}})
    files = [
        ("image", ("1.png", picture("red", format="PNG"), "image/png")),
        ("image", ("2.webp", picture("green", format="WEBP"), "image/webp")),
    ]
    put = client.put("/v1/items/form", data={"product": fields}, files=files)
    assert put.status_code == 201, put.text
    assert client.get("/v1/items/form").json()["views"] == 2
    second = client.get("/v1/items/form/image", params={"view": 1})
    assert second.headers["content-type"] == "image/webp"
    kept = client.put("/v1/items/form", files={"product": (None, fields)})
    assert (kept.status_code, client.get("/v1/items/form").json()["views"]) == (200, 2)
    for data, sent in (
        ({}, files),
        ({"product": fields, "other": "1"}, files),
        ({"product": "{"}, files),
        ({"product": '{"colour": "red"}'}, files),
        ({"product": fields, "image": "text"}, []),
    ):
        refused = client.put("/v1/items/form", data=data, files=sent or {"x": b""})
        assert refused.status_code in (400, 422), refused.text
    short = client.put(
        "/v1/items/form",
        content=b"--x\r\nContent-Disposition: form-data; name=product\r\n\r\n{}\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert (short.status_code, short.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("id", ["summer/new/1", "été ✓ #2?a=b&c%20", "../x", "-x", "a/image"])
def test_odd_ids(client: httpx.Client, id: str) -> None:
    address = f"/v1/items/{quote(id, safe='')}"
    put = client.put(address, json=product())
    assert (put.status_code, put.json()["id"]) == (201, id)
    assert id in found(client, rerank=False)
    assert client.delete(address).json()["outcome"] == "deleted"


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
        (product(text=" "), 400, "empty_text"),
        (product(text="x" * 6000), 422, "text_too_long"),
        (product(attributes={"price": "cheap"}), 422, "invalid_request"),
        (product(attributes={"price": True}), 422, "invalid_request"),
        (product(attributes={"": 1}), 422, "invalid_request"),
        (product(attributes={"sizes": ["S", 1]}), 422, "invalid_request"),
        (product(attributes={"sizes": {"eu": 38}}), 422, "invalid_request"),
        (product(attributes={"sizes": [f"{n}" for n in range(1025)]}), 422, "invalid_request"),
        (product(attributes={"colour": ["red", "blue"]}), 422, "invalid_request"),
        (product(attributes={f"a{n}": n for n in range(300)}), 422, "invalid_request"),
        (product(price=3), 422, "invalid_request"),
        ([1], 422, "invalid_request"),
    ],
)
def test_what_is_not_taken(
    client: httpx.Client, snapshot: Snapshot, body: Any, status: int, code: str | None
) -> None:
    refused = client.put("/v1/items/new", json=body)
    assert refused.status_code == status, refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    if code is not None:
        assert refused.json()["code"] == code
    assert client.get("/v1/items/new").status_code == 404
    assert client.get("/v1/index").json()["snapshot"] == snapshot.name


@pytest.mark.parametrize(
    ("id", "fields", "location"),
    [
        ("a", {"attributes": {"price": "cheap"}}, "body.attributes.price"),
        ("a", {"images": ["%"]}, "body.images.0"),
        ("a", {"images": []}, "body.images"),
        ("%20a", {}, "path.item_id"),
    ],
)
def test_the_field_to_blame_is_named(
    client: httpx.Client, id: str, fields: dict[str, Any], location: str
) -> None:
    problem = client.put(f"/v1/items/{id}", json=product(**fields)).json()
    assert problem["errors"] == [{"location": location, "message": problem["detail"]}]


def test_bad_bodies_and_ids(client: httpx.Client) -> None:
    assert client.put("/v1/items/a", content=b"{").status_code == 415
    json_type = {"Content-Type": "application/json"}
    assert client.put("/v1/items/a", content=b"{", headers=json_type).status_code == 400
    deep = client.post("/v1/items:batch", content=b"[" * 100_000, headers=json_type)
    assert (deep.status_code, deep.json()["code"]) == (400, "malformed_json")
    for id in ("%20a", "a" * 600, "%20"):
        assert client.put(f"/v1/items/{id}", json=product()).status_code == 422
        deleted = client.delete(f"/v1/items/{id}")
        assert deleted.status_code == 422
        assert deleted.json()["errors"][0]["location"] == "path.item_id"
    assert client.delete("/v1/items/").status_code == 422


def test_odd_attributes_are_kept_as_a_feed_would(client: httpx.Client) -> None:
    attributes = {"price": 3, "none": None, "blank": "  ", "big": 1 << 70, "colour": " red "}
    put = client.put("/v1/items/new", json=product(attributes=attributes))
    assert put.status_code == 201, put.text
    assert client.get("/v1/items/new").json()["attributes"] == {
        "price": 3.0,
        "big": str(1 << 70),
        "colour": "red",
    }


def test_attributes_with_several_values(client: httpx.Client) -> None:
    lists = {"sizes": ["M", " S", "M", ""], "none": [], "tags": ["a"]}
    put = client.put("/v1/items/new", json=product(attributes=lists))
    assert put.status_code == 201, put.text
    kept = {"sizes": ["M", "S"], "tags": ["a"]}
    assert client.get("/v1/items/new").json()["attributes"] == kept
    one = {"op": "put", "id": "two", **product(attributes={"sizes": ["M", "XL"]})}
    assert batch(client, one)["refused"] == 0
    assert client.get("/v1/index").json()["attributes"]["sizes"] == "strings"

    request = {"query": "dress", "k": 5, "facets": ["sizes"], "filters": {"sizes": ["S", "XL"]}}
    answer = client.post("/v1/search/text", json=request).json()
    assert {hit["id"]: hit["item"]["attributes"] for hit in answer["hits"]} == {
        "new": kept,
        "two": {"sizes": ["M", "XL"]},
    }
    values = {each["value"]: each["count"] for each in answer["facets"]["sizes"]["values"]}
    assert values == {"M": 2, "S": 1, "XL": 1}


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
    attributes: dict[str, Any], message: str, client: httpx.Client
) -> None:
    refused = client.put("/v1/items/a", json=product(attributes=attributes))
    assert (refused.status_code, refused.json()["detail"]) == (422, message)
    told = batch(client, {"op": "put", "id": "a", **product(attributes=attributes)})
    assert told["refused"] == 1
    assert message.removeprefix("body.") in told["results"][0]["error"]["detail"]


def batch(client: httpx.Client, *operations: Any) -> dict[str, Any]:
    answer = client.post("/v1/items:batch", json=list(operations))
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_a_batch(client: httpx.Client, snapshot: Snapshot) -> None:
    old = snapshot.ids[11]
    answer = batch(
        client,
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
    assert client.get("/v1/items/a/image").content == picture("blue")
    assert client.get(f"/v1/items/{quote(old, safe='')}").status_code == 404
    all_refused = batch(client, {"op": "put", "id": "x"}, 3)
    assert (all_refused["refused"], all_refused["snapshot"]) == (2, answer["snapshot"])


def test_a_batch_names_the_first_version_that_has_it(
    serve: Any, root: Path, snapshot: Snapshot
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


def test_a_batch_of_lines(client: httpx.Client) -> None:
    lines = [
        json.dumps({"op": "put", "id": "a", **product()}),
        "",
        "{",
        json.dumps({"op": "delete", "id": "a"}),
    ]
    answer = client.post(
        "/v1/items:batch",
        content="\n".join(lines),
        headers={"Content-Type": "application/x-ndjson"},
    ).json()
    outcomes = [result["outcome"] for result in answer["results"]]
    assert outcomes == ["created", "refused", "deleted"]
    assert answer["results"][1]["error"]["code"] == "malformed_json"


def test_batches_that_are_refused(client: httpx.Client) -> None:
    for operations in ([], [{"op": "delete", "id": "a"}] * 501):
        answer = client.post("/v1/items:batch", json=operations)
        assert (answer.status_code, answer.json()["code"]) == (422, "out_of_range")
    assert client.post("/v1/items:batch", json={}).status_code == 422
    assert client.post("/v1/items:batch", content=b"x").status_code == 415


def test_two_servers_of_one_folder(worker: Worker, snapshot: Snapshot) -> None:
    with worker() as one, worker() as other:
        assert one.put("/v1/items/a", json=product()).status_code == 201
        one.delete(f"/v1/items/{snapshot.ids[12]}")
        deadline = time.monotonic() + 60
        while other.get("/v1/items/a").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "a" in found(other, rerank=False)
        # At once, whatever the other has seen yet: what was answered for is there.
        one.put("/v1/items/b", json=product("green"))
        kept = other.put("/v1/items/b", json={"title": "Now cheaper"})
        assert (kept.status_code, kept.json()["outcome"]) == (200, "replaced")
        assert other.get("/v1/items/b/image").content == picture("green")
    with worker() as again:
        ids = found(again, rerank=False)
        assert {"a", "b"} <= set(ids)
        assert snapshot.ids[12] not in ids


def test_a_full_delta(worker: Worker) -> None:
    with worker(delta_limit=2) as client:
        for id in "ab":
            assert client.put(f"/v1/items/{id}", json=product()).status_code == 201
        full = client.put("/v1/items/c", json=product())
        assert (full.status_code, full.json()["code"]) == (507, "delta_full")
        assert "fashionbert index compact" in full.json()["detail"]
        assert client.delete("/v1/items/a").status_code == 200


def test_a_disk_that_fails(client: httpx.Client, root: Path) -> None:
    (root / "delta").write_text("no folder")
    failed = client.put("/v1/items/a", json=product())
    assert (failed.status_code, failed.json()["code"]) == (503, "write_failed")
    assert client.get("/v1/items/a").status_code == 404
    (root / "delta").unlink()
    assert client.put("/v1/items/a", json=product()).status_code == 201


def test_a_catalogue_that_was_emptied(client: httpx.Client, snapshot: Snapshot) -> None:
    for start in range(0, len(snapshot), 20):
        batch(client, *[{"op": "delete", "id": id} for id in snapshot.ids[start : start + 20]])
    assert found(client) == []
    search = client.post("/v1/search/image", json={"image": encoded(picture("red"))})
    assert search.json()["hits"] == []
    client.put("/v1/items/a", json=product())
    assert found(client) == ["a"]


def test_until_it_is_ready_it_takes_no_writes(settings: Settings, root: Path) -> None:
    app = create_app(settings.model_copy(update={"snapshots": root}))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.put("/v1/items/a", json=product())

    refused = anyio.run(ask)
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert not (root / "delta").exists()


def test_writes_that_wait_for_the_log_hold_up_no_search(worker: Worker, root: Path) -> None:
    with worker(concurrency=1, write_concurrency=1, max_queue=0) as client:
        assert client.delete("/v1/items/nobody").json()["outcome"] == "absent"  # makes the log
        answers: list[httpx.Response] = []
        write = threading.Thread(
            target=lambda: answers.append(client.put("/v1/items/new", json=product()))
        )
        with (root / "delta" / ".lock").open("rb") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            write.start()
            while client.get("/v1/status").json()["queue"]["computing"] == 0:
                assert write.is_alive()
            assert "new" not in found(client)
            refused = client.delete("/v1/items/nobody")
            assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
        write.join()
        assert answers[0].status_code == 201
        assert "new" in found(client)
