from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from index.snapshot import Snapshot

Make = Callable[..., Any]


def test_the_address_of_a_picture_is_no_items(product: Make, writing: httpx.Client) -> None:
    for method in ("PUT", "DELETE"):
        answer = writing.request(method, "/v1/items/a%2Fb%2Fimage", json=product())
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD"
    put = {"op": "put", "id": "a/b/image", **product()}
    result = writing.post("/v1/items:batch", json=[put]).json()["results"][0]
    assert "an id does not end in /image" in result["error"]["detail"]
    # One that a feed brought may go.
    result = writing.post("/v1/items:batch", json=[{"op": "delete", "id": "a/b/image"}]).json()
    assert [each["outcome"] for each in result["results"]] == ["absent"]


def test_what_may_be_deleted(product: Make, writing: httpx.Client) -> None:
    """Whatever a feed brought."""
    long = "x" * 600
    assert writing.delete(f"/v1/items/{long}").json()["outcome"] == "absent"
    assert writing.put(f"/v1/items/{long}", json=product()).status_code == 422


@pytest.mark.parametrize("id", ["caf%E9", "%FF", "a/%C3", "%ED%A0%80", "%C0%AF"])
def test_ids_that_are_not_utf_8(id: str, serve: Any, root: Path, snapshot: Snapshot) -> None:
    """A server reads their bad bytes as U+FFFD: different ids would become one."""
    product = {"title": "A dress", "images": ["/9j/"]}
    with serve(snapshots=root) as running:
        client = running.client
        for response in (
            client.put(f"/v1/items/{id}", json=product),
            client.delete(f"/v1/items/{id}"),
            client.get(f"/v1/items/{id}"),
            client.get(f"/v1/items/{id}/image"),
        ):
            assert response.status_code == 422, response.text
            assert response.json()["code"] == "invalid_request"
            assert "not UTF-8" in response.json()["detail"]
            assert response.headers["content-type"] == "application/problem+json"
        assert client.get("/v1/index").json()["snapshot"] == snapshot.name
        # The character itself is one like any other.
        known = client.get("/v1/items/caf%EF%BF%BD")
        assert (known.status_code, known.json()["code"]) == (404, "unknown_item")
