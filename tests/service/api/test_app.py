from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import FastAPI

from index.snapshot import Snapshot
from model.bundle import FILES, Bundle
from model.errors import BundleError, FashionBertError, SnapshotError
from service.api.app import create_app
from service.settings import Settings


def ask(app: FastAPI, method: str, path: str, **body: Any) -> httpx.Response:
    """Ask an app without starting it."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, json=body or None)

    return anyio.run(send)


def get(app: FastAPI, path: str) -> httpx.Response:
    return ask(app, "GET", path)


def start(app: FastAPI) -> None:
    """Start an app and stop it."""

    async def run() -> None:
        async with app.router.lifespan_context(app):
            pass

    anyio.run(run)


def test_until_a_real_search_went_through_it_is_not_ready(settings: Settings) -> None:
    app = create_app(settings)
    assert get(app, "/healthz").json() == {"status": "ok"}
    for path in ("/readyz", "/v1/index", "/v1/items/a"):
        response = get(app, path)
        assert (response.status_code, response.json()["code"]) == (503, "not_ready")
        assert response.headers["retry-after"] == "1"
    start(app)  # which waits for the first search
    assert get(app, "/readyz").json() == {"status": "ready"}


def test_it_gets_ready_within_the_smallest_limits(settings: Settings) -> None:
    """Requests have to keep them; the first search is the service's own, with a stored picture."""
    smallest = dict.fromkeys(
        (
            "max_k",
            "candidates",
            "max_candidates",
            "max_query_characters",
            "max_upload_bytes",
            "max_pixels",
        ),
        1,
    )
    app = create_app(settings.model_copy(update=smallest))
    start(app)
    assert get(app, "/readyz").json() == {"status": "ready"}


def test_who_does_not_say_how_many_gets_what_a_small_limit_leaves(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"max_k": 3}))
    start(app)
    found = ask(app, "POST", "/v1/search/text", query="shirt")
    asked = ask(app, "POST", "/v1/search/text", query="shirt", k=10)
    assert (found.status_code, len(found.json()["hits"])) == (200, 3)
    assert (asked.status_code, asked.json()["code"]) == (422, "out_of_range")


def test_a_first_search_that_fails_leaves_it_not_ready(
    settings: Settings, snapshot_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "snapshots"
    shutil.copytree(snapshot_root, root)
    pictures = root / "00000001" / "images.bin"
    pictures.write_bytes(bytes(pictures.stat().st_size))
    app = create_app(settings.model_copy(update={"snapshots": root, "verify_snapshot": False}))
    start(app)
    assert get(app, "/healthz").status_code == 200
    response = get(app, "/readyz")
    assert response.status_code == 503
    assert "the first search failed" in response.json()["detail"]


def test_index(client: httpx.Client, snapshot: Snapshot, settings: Settings) -> None:
    body = client.get("/v1/index").json()
    assert body["snapshot"] == snapshot.name
    assert body["model"] == snapshot.model_id
    assert body["products"] == len(snapshot) == 96
    assert body["pictures"] == len(snapshot.product_of_image)
    assert body["attributes"]["price"] == "double"
    assert body["max_k"] == settings.max_k
    assert client.get("/readyz").status_code == 200


def refused(settings: Settings, kind: type[FashionBertError]) -> str:
    with pytest.raises(kind) as caught:
        start(create_app(settings))
    return str(caught.value)


def test_another_models_snapshot_is_refused(
    settings: Settings, bundle: Bundle, other_bundle: Bundle
) -> None:
    message = refused(settings.model_copy(update={"bundle": other_bundle.path}), SnapshotError)
    assert bundle.model_id in message
    assert other_bundle.model_id in message


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_bundle_with_a_flipped_byte_is_refused(
    name: str, settings: Settings, tmp_path: Path
) -> None:
    damaged = tmp_path / "bundle"
    shutil.copytree(settings.bundle, damaged)
    flip(damaged / name)
    message = refused(settings.model_copy(update={"bundle": damaged}), BundleError)
    assert name in message


@pytest.mark.parametrize("name", ["image.faiss", "image_states.npy", "items.parquet"])
def test_a_snapshot_with_a_flipped_byte_is_refused(
    name: str, settings: Settings, snapshot_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "snapshots"
    shutil.copytree(snapshot_root, root)
    flip(root / "00000001" / name)
    message = refused(settings.model_copy(update={"snapshots": root}), SnapshotError)
    assert name in message


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(data)


def test_a_failure_inside_is_told_without_its_insides(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("secret /etc/place")

    @app.get("/damaged")
    async def damaged() -> None:
        raise SnapshotError("/secret/place is damaged")

    for path in ("/fails", "/damaged"):
        response = get(app, path)
        assert (response.status_code, response.json()["code"]) == (500, "internal")
        assert "secret" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        # No redirect, which would name an address that the caller chose, over plain HTTP.
        ("POST", "/v1/search/text/", 404, "not_found"),
        ("GET", "/v1/index/", 404, "not_found"),
        ("GET", "/v1/items", 404, "not_found"),
        ("GET", "/v1/search/text", 405, "method_not_allowed"),
        ("POST", "/v1/items/a", 405, "method_not_allowed"),
    ],
)
def test_wrong_addresses(
    method: str, path: str, status: int, code: str, client: httpx.Client
) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert ("allow" in response.headers) == (status == 405)


def test_all_methods_of_an_address_are_allowed(client: httpx.Client) -> None:
    for path, allowed in (("/v1/items/a", "DELETE, GET, HEAD, PUT"), ("/healthz", "GET, HEAD")):
        assert client.post(path).headers["allow"] == allowed


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/readyz", "/v1/index", "/v1/status", "/metrics"]
)
def test_status_may_be_asked_without_an_answers_body(path: str, client: httpx.Client) -> None:
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert get.content


def test_head_tells_what_is_not_ready(settings: Settings) -> None:
    app = create_app(settings)
    assert [ask(app, "HEAD", path).status_code for path in ("/healthz", "/readyz")] == [200, 503]


def test_a_mistyped_variable_is_told_of_at_the_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FASHIONBERT_RATELIMIT", "5")
    app = create_app(settings)
    start(app)
    assert caplog.text.count("FASHIONBERT_RATELIMIT (did you mean FASHIONBERT_RATE_LIMIT?)") == 1
