from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message

from index.snapshot import Snapshot
from service.api.app import create_app
from service.callers import AbandonedError
from service.live_search import LiveSearch
from service.logs import JsonFormatter, configure, current_request, request_id
from service.security import new_key
from service.settings import Settings

Serve = Callable[..., Any]
TEXT = "/v1/search/text"


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What was logged meanwhile, parsed."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure("info", stream)

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    try:
        yield read
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def requests(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of this test's own requests: other servers of the process may still be writing."""
    return [
        line
        for line in lines
        if line["logger"] == "fashionbert.access" and line["request_id"] == "a.b-1"
    ]


@pytest.mark.parametrize("logged", [False, True])
def test_a_line_for_each_request_and_no_query_unless_asked(
    logged: bool, serve: Serve, photo: bytes, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    encoded = base64.b64encode(photo).decode()
    with serve(log_queries=logged) as running:
        client = running.client
        client.headers["X-Request-Id"] = "a.b-1"
        client.post(TEXT, json={"query": "secret wish"})
        client.post("/v1/search/image", json={"image": encoded, "k": 3})
        client.get("/v1/items/secret wish/image?view=secret")
        client.get("/nothing/secret")
        client.get("/healthz")
    first, second, third, fourth = requests(lines())
    assert first.get("query") == ("secret wish" if logged else None)
    assert (first["method"], first["route"], first["status"]) == ("POST", TEXT, 200)
    assert (first["caller"], first["cache"]) == ("anonymous", "miss")
    assert first["ms"] > 0
    assert second["route"] == "/v1/search/image"
    assert (third["route"], third["status"]) == ("/v1/items/{item_id}/image", 422)
    codes = [first.get("code"), third.get("code"), fourth.get("code")]
    assert codes == [None, "invalid_request", "not_found"]
    assert (fourth["route"], fourth["status"]) == ("unmatched", 404)
    everything = json.dumps([line for line in lines() if line["logger"] != "httpx"])
    assert encoded[:40] not in everything
    assert everything.count("secret") == (1 if logged else 0)


def test_who_is_refused_is_noted_with_the_route(
    serve: Serve, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    keys = new_key("web", "search")[1].line()
    asked = (
        ("POST", TEXT, TEXT),
        ("GET", "/v1/items/a/b/image", "/v1/items/{item_id}/image"),
        ("PUT", "/v1/items/a", "/v1/items/{item_id}"),
        ("POST", "/v1/items:batch", "/v1/items:batch"),
        ("PATCH", "/v1/items/a", "/v1/items/{item_id}"),
        ("GET", "/nothing/secret", "unmatched"),
    )
    with serve(keys=keys) as running:
        for method, path, _ in asked:
            answer = running.client.request(method, path, headers={"X-Request-Id": "a.b-1"})
            assert answer.status_code == 401
        running.client.get("/openapi.json", headers={"X-Request-Id": "a.b-1"})
    noted = [line["route"] for line in requests(lines())]
    assert noted == [*(route for _, _, route in asked), "/openapi.json"]


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, "a\r\nb", 'a"b', "é", None])
def test_an_id_that_no_log_can_hold_is_replaced(sent: str | None) -> None:
    made = request_id(sent)
    assert made != sent
    assert len(made) == 32
    assert request_id("Abc-1.2_3") == "Abc-1.2_3"


def test_every_answer_names_its_request(client: httpx.Client) -> None:
    for path in ("/", "/healthz", "/nothing", "/v1/items/nobody"):
        assert client.get(path, headers={"X-Request-Id": "mine"}).headers["x-request-id"] == "mine"
        ids = {client.get(path).headers["x-request-id"] for _ in range(2)}
        assert len(ids) == 2


def test_a_failure_is_logged_with_its_request(
    settings: Settings, live: LiveSearch, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    app = create_app(settings, live)

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError("no such luck")

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)  # which would raise what the app lets out
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/fails", headers={"X-Request-Id": "mine"})

    response = anyio.run(ask)
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert response.headers["x-request-id"] == "mine"
    failed, noted = (line for line in lines() if line.get("request_id") == "mine")
    assert "RuntimeError: no such luck" in failed["error"]
    assert (noted["route"], noted["status"]) == ("/fails", 500)
    assert current_request.get() is None


def test_who_hangs_up_is_noted_as_without_an_answer(
    settings: Settings, live: LiveSearch, lines: Callable[[], list[dict[str, Any]]]
) -> None:
    app, sent = create_app(settings, live), []

    @app.get("/left")
    async def left() -> None:
        def work() -> None:
            raise AbandonedError("the caller has hung up")

        await app.state.service.searches.run(work)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"x-request-id", b"a.b-1")]
    scope = {"type": "http", "method": "GET", "path": "/left", "query_string": b""}
    anyio.run(app, {**scope, "headers": headers}, receive, send)
    assert not sent
    (noted,) = requests(lines())
    assert (noted["status"], noted.get("code")) == (499, None)


def test_a_line_is_one_line() -> None:
    record = logging.LogRecord("a", logging.INFO, "f", 1, "two\nlines %s", ("\x1b[31m",), None)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line)["message"] == "two\nlines \x1b[31m"


def test_metrics(serve: Serve, snapshot: Snapshot) -> None:
    with serve() as running:
        client = running.client
        for _ in range(2):
            assert client.post(TEXT, json={"query": "red"}).status_code == 200
        client.get(f"/v1/items/{snapshot.ids[5]}")
        for number in range(3):
            client.get(f"/nothing/{number}")
        client.request("BREW", "/v1/index")
        client.get("/openapi.json")
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = {one.name: one for one in text_string_to_metric_families(response.text)}

    def values(name: str, suffix: str = "") -> dict[tuple[str, ...], float]:
        return {
            tuple(sample.labels.values()): sample.value
            for sample in families[f"fashionbert_{name}"].samples
            if sample.name == f"fashionbert_{name}{suffix}"
        }

    counts = values("request_seconds", "_count")
    assert counts["POST", TEXT, "200"] == 2
    assert counts["GET", "/v1/items/{item_id}", "200"] == 1
    assert counts["GET", "unmatched", "404"] == 3
    assert counts["other", "/v1/index", "405"] == 1
    assert counts["GET", "/openapi.json", "200"] == 1
    assert set(values("stage_seconds", "_count")) == {
        (stage,) for stage in ("encode", "recall", "gather", "rerank", "total")
    }
    assert values("stage_seconds", "_count")["rerank",] == 1  # the second answer was kept
    assert values("cache", "_total")["answers", "memory"] == 1
    assert values("requests_in_flight")[()] == 1
    assert values("ready")[()] == 1
    assert values("queue_waiting")[()] == 0
    assert values("snapshot_info") == {(snapshot.model_id, snapshot.name): 1}
    assert values("snapshot_products")[()] == len(snapshot)
    assert values("snapshot_age_seconds")[()] > 0
    assert len(values("build_info")) == 1
    assert "process_resident_memory_bytes" in families


def test_two_apps_count_for_themselves(settings: Settings, live: LiveSearch) -> None:
    first, second = (create_app(settings, live).state.service.metrics for _ in range(2))
    first.rate_limited("a")
    assert first.counts()["rate_limited"] == {"a": 1}
    assert second.counts()["rate_limited"] == {}


def test_status(serve: Serve, snapshot: Snapshot, settings: Settings) -> None:
    with serve() as running:
        running.client.post(TEXT, json={"query": "red"})
        body = running.client.get("/v1/status").json()
    assert body["status"] == "ready"
    assert body["snapshot"]["name"] == snapshot.name
    assert body["snapshot"]["products"] == len(snapshot)
    assert body["snapshot"]["model"] == snapshot.model_id
    assert body["snapshot"]["matcher"] == "onnxruntime"  # the bundle is not fused
    assert body["requests"][f"POST {TEXT} 200"] == 1
    rerank = body["milliseconds"]["rerank"]
    assert 0 < rerank["p50"] <= rerank["p95"] <= rerank["p99"]
    assert rerank["of_last"] == 1
    assert body["cache"]["lookups"] == {"answers miss": 1, "queries miss": 1}
    assert 0 < body["cache"]["bytes"] <= body["cache"]["max_bytes"] == settings.cache_bytes
    assert body["redis"] == "off"
    assert body["queue"] == {"in_flight": 1, "waiting": 0, "computing": 0}


def test_status_before_it_is_ready(settings: Settings) -> None:
    app = create_app(settings)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/v1/status")

    body = anyio.run(ask).json()
    assert body["status"] == "the model and the snapshot are being opened"
    assert body["snapshot"] is None


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        ("", "93.184.215.14", "127.0.0.1"),
        ("127.0.0.1", "93.184.215.14", "93.184.215.14"),
        ("127.0.0.1", "no address", "unknown"),
    ],
)
def test_who_is_turned_away_is_logged_with_the_address(
    trusted: str,
    forwarded: str,
    address: str,
    serve: Serve,
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    secret, key = new_key("shop", "search")
    limits = {"rate_limit": 0.001, "rate_burst": 1}
    with serve(keys=key.line(), trusted_proxies=trusted, **limits) as running:
        client = running.client
        client.headers.update({"X-Request-Id": "a.b-1", "X-Forwarded-For": forwarded})
        client.get("/v1/index", headers={"X-API-Key": "fbk_none"})
        client.delete("/v1/items/a", headers={"X-API-Key": secret})
        for _ in range(2):
            client.post(TEXT, json={"query": "hat"}, headers={"X-API-Key": secret})
    told = {line["status"]: line.get("address") for line in requests(lines())}
    assert told == {401: address, 403: address, 200: None, 429: address}
