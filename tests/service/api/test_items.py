from __future__ import annotations

import io
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from index.snapshot import Snapshot


def test_an_item(client: httpx.Client, snapshot: Snapshot) -> None:
    item = snapshot.item(5)
    assert client.get(f"/v1/items/{item.id}").json() == {
        "id": item.id,
        "title": item.title,
        "text": item.text,
        "attributes": item.attributes,
        "views": item.views,
    }
    assert isinstance(item.attributes["price"], float)


@pytest.mark.parametrize("row", range(4))
def test_odd_ids(row: int, client: httpx.Client, snapshot: Snapshot) -> None:
    id = snapshot.ids[row]
    addresses = [f"/v1/items/{quote(id, safe='')}"]
    if ".." not in id:  # clients themselves take that out of an address if it is not quoted
        addresses.append(f"/v1/items/{quote(id)}")
    for address in addresses:
        assert client.get(address).json()["id"] == id
        picture = client.get(f"{address}/image")
        assert picture.content == snapshot.image(snapshot.image_rows(row)[0])[0]


def test_every_picture_of_an_item(client: httpx.Client, snapshot: Snapshot) -> None:
    row = next(row for row in range(5, len(snapshot)) if snapshot.item(row).views > 1)
    address = f"/v1/items/{snapshot.ids[row]}/image"
    for view, image_row in enumerate(snapshot.image_rows(row)):
        response = client.get(address, params={"view": view})
        data, media_type = snapshot.image(image_row)
        assert response.content == data
        assert response.headers["content-type"] == media_type == "image/jpeg"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert Image.open(io.BytesIO(data)).size <= (512, 512)
    assert client.get(address).content == snapshot.image(snapshot.image_rows(row)[0])[0]
    beyond = client.get(address, params={"view": snapshot.item(row).views})
    assert (beyond.status_code, beyond.json()["code"]) == (404, "unknown_view")


def test_a_picture_is_sent_once(client: httpx.Client, snapshot: Snapshot) -> None:
    address = f"/v1/items/{snapshot.ids[5]}/image"
    first = client.get(address)
    etag = first.headers["etag"]
    assert "max-age" in first.headers["cache-control"]
    for sent in (etag, f'"other", W/{etag}', "*"):
        again = client.get(address, headers={"If-None-Match": sent})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    assert client.get(address, headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.get(f"/v1/items/{snapshot.ids[6]}/image").headers["etag"] != etag


@pytest.mark.parametrize("path", ["/v1/items/nobody", "/v1/items/nobody/image", "/v1/items/"])
def test_unknown_items(path: str, client: httpx.Client) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "unknown_item")
    assert [one["location"] for one in response.json()["errors"]] == ["path.item_id"]
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("view", ["-1", "first"])
def test_a_view_that_is_no_number(view: str, client: httpx.Client, snapshot: Snapshot) -> None:
    response = client.get(f"/v1/items/{snapshot.ids[5]}/image", params={"view": view})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert response.json()["errors"][0]["location"] == "query.view"


@pytest.mark.parametrize("end", ["", "/image"])
def test_an_item_may_be_asked_without_an_answers_body(
    end: str, client: httpx.Client, snapshot: Snapshot
) -> None:
    address = f"/v1/items/{snapshot.ids[5]}{end}"
    head, get = client.head(address), client.get(address)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length", "etag"):
        assert head.headers.get(name) == get.headers.get(name)
