from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from index.snapshot import Snapshot


@pytest.mark.parametrize("id", ["caf%E9", "%FF", "a/%C3", "%ED%A0%80", "%C0%AF", "x%80/image"])
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
