from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from model.errors import FashionBertError
from service.api.access import counted, required_scope
from service.api.app import create_app
from service.security import new_key
from service.settings import Settings

Serve = Callable[..., Any]

TEXT = "/v1/search/text"
QUERY = {"query": "red dress", "k": 1, "candidates": 1}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/", None),
        ("GET", "/healthz", None),
        ("GET", "/readyz", None),
        ("GET", "/openapi.json", None),
        ("GET", "/metrics", "search"),
        ("GET", "/v1/status", "search"),
        ("GET", "/v1/items/a", "search"),
        ("HEAD", "/v1/items/a", "search"),
        ("OPTIONS", "/v1/items/a", "search"),
        ("POST", "/v1/search/text", "search"),
        ("POST", "/v1/match", "search"),
        ("POST", "/v1/matchx", "admin"),
        ("PUT", "/v1/items/a", "admin"),
        ("DELETE", "/v1/items/a", "admin"),
        ("POST", "/v1/items:batch", "admin"),
        ("POST", "/v1/whatever/comes", "admin"),
        ("BREW", "/v1/items/a", "admin"),
    ],
)
def test_what_a_request_needs(method: str, path: str, scope: str | None) -> None:
    assert required_scope(method, path) == scope
    reports = path in ("/metrics", "/v1/status")
    assert required_scope(method, path, open_metrics=True) == (None if reports else scope)
    assert counted(method) == (method not in ("GET", "HEAD", "OPTIONS"))


def test_keys(serve: Serve) -> None:
    search, search_key = new_key("web", "search")
    admin, admin_key = new_key("jobs", "admin")
    revoked, _ = new_key("old", "admin")
    with serve(keys=f"{search_key.line()} {admin_key.line()}") as running:
        client = running.client

        def asked(method: str, path: str, **options: object) -> tuple[int, str]:
            response = client.request(method, path, **options)
            authenticate = response.headers.get("www-authenticate", "")
            assert authenticate.startswith("Bearer ") == (response.status_code in (401, 403))
            if response.status_code < 400:
                return response.status_code, ""
            assert response.headers["content-type"] == "application/problem+json"
            return response.status_code, response.json()["code"]

        for path in ("/", "/healthz", "/readyz", "/openapi.json"):
            assert asked("GET", path) == (200, "")
        for path in ("/v1/index", "/v1/items/a", "/metrics", "/v1/status", "/nothing"):
            assert asked("GET", path) == (401, "missing_key")
        assert asked("POST", TEXT, json=QUERY) == (401, "missing_key")
        for headers in (bearer(revoked), {"X-API-Key": "x"}, bearer(search_key.digest)):
            assert asked("POST", TEXT, json=QUERY, headers=headers) == (401, "unknown_key")
        basic = {"Authorization": "Basic YTpi"}
        assert asked("POST", TEXT, json=QUERY, headers=basic) == (401, "missing_key")
        for secret in (search, admin):
            for headers in (bearer(secret), {"X-API-Key": secret}, basic | {"x-api-key": secret}):
                assert asked("POST", TEXT, json=QUERY, headers=headers) == (200, "")
        assert asked("GET", "/metrics", headers=bearer(search)) == (200, "")
        unknown = asked("DELETE", "/v1/none", headers=bearer(admin))
        assert unknown == (404, "not_found")
        for method, path in (
            ("PUT", "/v1/items/a"),
            ("DELETE", "/v1/items/a"),
            ("POST", "/v1/items:batch"),
            ("DELETE", "/v1/none"),
        ):
            assert asked(method, path) == (401, "missing_key")
            assert asked(method, path, headers=bearer(search)) == (403, "wrong_scope")
        for method, path in (("PUT", "/v1/items/a"), ("POST", "/v1/items:batch")):
            let_in = asked(method, path, headers=bearer(admin))
            assert let_in == (415, "unsupported_media_type")

        document = client.get("/openapi.json").json()
        assert document["paths"][TEXT]["post"]["security"]
        assert set(document["components"]["securitySchemes"]) == {"bearer", "api_key"}
        metrics = client.get("/metrics", headers=bearer(admin)).text
        assert 'fashionbert_refused_total{reason="unknown_key"} 3.0' in metrics
        assert search not in metrics


def test_who_may_not_come_in_is_told_before_the_body_comes(serve: Serve) -> None:
    with serve(keys=new_key("web", "search")[1].line()) as running:
        address = urlsplit(str(running.client.base_url))
        with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
            connection.sendall(
                b"POST /v1/search/text HTTP/1.1\r\nHost: test\r\n"
                b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
            )
            assert connection.recv(65_536).startswith(b"HTTP/1.1 401 ")


def test_anonymous_callers_may_search_where_that_was_allowed(serve: Serve) -> None:
    admin, key = new_key("jobs", "admin")
    with serve(keys=key.line(), allow_anonymous=True, open_metrics=True) as running:
        client = running.client
        assert client.post(TEXT, json=QUERY).status_code == 200
        assert client.get("/metrics").status_code == 200
        assert client.delete("/v1/none").json()["code"] == "missing_key"
        assert client.delete("/v1/none", headers=bearer(admin)).status_code == 404
        assert client.post(TEXT, json=QUERY, headers=bearer("x")).json()["code"] == "unknown_key"


def test_a_network_is_not_let_in_by_mistake(settings: Settings) -> None:
    with pytest.raises(FashionBertError, match="fashionbert key new"):
        create_app(settings.model_copy(update={"host": "0.0.0.0"}))


def test_changes_by_anyone_are_for_this_machines_own_names(serve: Serve) -> None:
    """Not for a web page whose name leads here: there is no key that it would lack."""
    with serve() as running:
        port = running.client.base_url.port
        for host in ("127.0.0.1", "localhost", f"localhost:{port}", f"[::1]:{port}"):
            answer = running.client.delete("/v1/none", headers={"Host": host})
            assert answer.json()["code"] == "not_found"
        for host in ("evil.com", f"evil.com:{port}", "127.0.0.1.evil.com", "[::2]", ""):
            for key in ({}, bearer("x")):
                answer = running.client.delete("/v1/none", headers={"Host": host, **key})
                assert answer.json()["code"] == "missing_key"
            assert "do it under the name localhost or 127.0.0.1, or" in answer.json()["detail"]
            searched = running.client.post(TEXT, json=QUERY, headers={"Host": host})
            assert searched.status_code == 200


@pytest.mark.parametrize("trusted", ["", "127.0.0.1", "10.0.0.0/8"])
def test_a_forwarded_address_is_believed_of_a_trusted_proxy_alone(
    trusted: str, serve: Serve
) -> None:
    with serve(rate_limit=0.001, rate_burst=1, trusted_proxies=trusted) as running:

        def ask(address: str) -> int:
            headers = {"X-Forwarded-For": address}
            return int(running.client.post(TEXT, json=QUERY, headers=headers).status_code)

        others = 200 if trusted == "127.0.0.1" else 429
        assert [ask("93.184.215.14") for _ in range(2)] == [200, 429]
        assert ask("93.184.215.15") == others
        # All addresses of one network of IPv6 are one caller's, and those of the next another's.
        for network in ("2606:4700:0:0:", "2606:4700:0:1:", "ff00:0:0:1:"):
            assert ask(f"{network}:1") == others
            assert ask(f"{network}:2") == 429


def test_rate_limits(serve: Serve) -> None:
    (first, first_key), (second, second_key) = new_key("a", "search"), new_key("b", "search")
    keys = f"{first_key.line()} {second_key.line()}"
    with serve(keys=keys, rate_limit=0.001, rate_burst=3, allow_anonymous=True) as running:

        def ask(headers: dict[str, str] | None = None) -> httpx.Response:
            return running.client.post(TEXT, json=QUERY, headers=headers)

        answers = [ask(bearer(first)) for _ in range(4)]
        assert [one.status_code for one in answers] == [200, 200, 200, 429]
        left = [one.headers["x-ratelimit-remaining"] for one in answers]
        assert left == ["2", "1", "0", "0"]
        assert {one.headers["x-ratelimit-limit"] for one in answers} == {"3"}
        refused = answers[-1]
        assert refused.json()["code"] == "rate_limited"
        assert 0 < int(refused.headers["retry-after"]) <= 1000
        assert int(refused.headers["x-ratelimit-reset"]) > 1000
        # Others have buckets of their own, and reading costs nothing.
        assert ask(bearer(second)).status_code == 200
        assert [ask().status_code for _ in range(4)] == [200, 200, 200, 429]
        index = running.client.get("/v1/index", headers=bearer(first))
        assert index.status_code == 200
        metrics = running.client.get("/metrics", headers=bearer(first)).text
        assert 'fashionbert_rate_limited_total{key="a"} 1.0' in metrics
        assert 'fashionbert_rate_limited_total{key="anonymous"} 1.0' in metrics
