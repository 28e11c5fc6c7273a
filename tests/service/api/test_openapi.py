from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from index.snapshot import Snapshot
from service.api.app import create_app
from service.api.problems import PROBLEMS
from service.security import new_key
from service.settings import Settings


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    document: dict[str, Any] = client.get("/openapi.json").json()
    return document


def test_every_address_is_in_it(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == {
        "/v1/search/text",
        "/v1/search/image",
        "/v1/match",
        "/v1/items/{item_id}",
        "/v1/items/{item_id}/image",
        "/v1/items:batch",
        "/v1/index",
        "/v1/status",
        "/metrics",
        "/healthz",
        "/readyz",
    }
    operations = [one for path in document["paths"].values() for one in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all(operation["description"] for operation in operations)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)


def test_what_it_refers_to_is_in_it(document: dict[str, Any]) -> None:
    found = set(references(document))
    assert "#/components/schemas/Problem" in found
    for reference in found:
        name = reference.removeprefix("#/components/schemas/")
        assert name in document["components"]["schemas"]


def test_every_operation_has_the_statuses_that_can_come(document: dict[str, Any]) -> None:
    """By its scope 401 and 403, by its method 429 and `overloaded`."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answered = set(operation["responses"])
            assert ("401" in answered) == (path not in ("/healthz", "/readyz"))
            assert ("403" in answered) == (path.startswith("/v1/items") and method != "get")
            assert ("429" in answered) == (method != "get")
            codes = operation["responses"].get("503", {}).get("description", "").split(", ")
            assert ("`overloaded`" in codes) == (method != "get")
            assert ("`not_ready`" in codes) == (path not in ("/v1/status", "/metrics", "/healthz"))
            stores = operation["operationId"] in ("put_item", "write_items")
            assert ("507" in answered) == stores
            takes_a_body = method in ("post", "put")
            assert ("415" in answered) == takes_a_body
            assert "security" not in operation  # this service has no keys


KEY = [{"bearer": []}, {"api_key": []}]


@pytest.mark.parametrize("anonymous", [False, True])
def test_keys_are_declared_wherever_they_are_in_use(anonymous: bool, settings: Settings) -> None:
    keys = SecretStr(new_key("jobs", "admin")[1].line())
    changes = {"keys": keys, "allow_anonymous": anonymous, "open_metrics": anonymous}
    document = create_app(settings.model_copy(update=changes)).openapi()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "api_key"}
    paths = document["paths"]
    for path, method in (
        ("/v1/items/{item_id}", "put"),
        ("/v1/items/{item_id}", "delete"),
        ("/v1/items:batch", "post"),
    ):
        assert paths[path][method]["security"] == KEY
    for path, method in (("/v1/search/text", "post"), ("/v1/items/{item_id}", "get")):
        assert paths[path][method]["security"] == ([*KEY, {}] if anonymous else KEY)
    for path in ("/metrics", "/v1/status"):
        assert paths[path]["get"].get("security") == (None if anonymous else KEY)
    assert "security" not in paths["/healthz"]["get"]


def test_errors_are_problems_and_nothing_else(document: dict[str, Any]) -> None:
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]
    assert all(f"`{code}`" in str(document["components"]) for code in PROBLEMS)


def test_the_examples_work(
    document: dict[str, Any], client: httpx.Client, snapshot: Snapshot
) -> None:
    for path in ("/v1/search/text", "/v1/search/image", "/v1/match"):
        schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"][
            "schema"
        ]
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        for example in schema["examples"]:
            response = client.post(path, json=example)
            if "item_id" in str(example):  # well formed, but not an item of this catalogue
                assert response.json()["code"] == "unknown_item"
            else:
                assert response.status_code == 200, response.text


def test_the_examples_of_writes_work(document: dict[str, Any], writing: httpx.Client) -> None:
    put = document["paths"]["/v1/items/{item_id}"]["put"]["requestBody"]["content"]
    (example,) = put["application/json"]["schema"]["examples"]
    assert writing.put("/v1/items/new", json=example).status_code == 201
    batch = document["paths"]["/v1/items:batch"]["post"]["requestBody"]["content"]
    operations = [
        example
        for schema in batch["application/json"]["schema"]["items"]["oneOf"]
        for example in schema["examples"]
    ]
    done = writing.post("/v1/items:batch", json=operations).json()
    assert [each["outcome"] for each in done["results"]] == ["created", "deleted"]


def test_bodies_have_names(document: dict[str, Any]) -> None:
    """Which clients that are generated from the document call their types by."""
    for path, name in (("/v1/search/text", "TextSearch"), ("/v1/match", "MatchRequest")):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert content == {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
        assert document["components"]["schemas"][name]["additionalProperties"] is False
    assert "MatchPair" in document["components"]["schemas"]


def test_lists_say_how_long_they_may_be(document: dict[str, Any], settings: Settings) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["MatchRequest"]["properties"]["pairs"]["maxItems"] == settings.max_pairs
    assert schemas["TextSearch"]["properties"]["facets"]["maxItems"] == 16
    assert schemas["Problem"]["properties"]["errors"]["maxItems"] == 50
    image = document["paths"]["/v1/search/image"]["post"]["requestBody"]["content"]
    form = image["multipart/form-data"]["schema"]["properties"]["facets"]
    assert form["contentSchema"]["maxItems"] == 16
    product = document["paths"]["/v1/items/{item_id}"]["put"]["requestBody"]["content"]
    images = product["application/json"]["schema"]["properties"]["images"]
    assert images["anyOf"][0]["maxItems"] == 16
    assert images["anyOf"][0]["minItems"] == 1


def test_a_picture_search_takes_a_form_and_json(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/search/image"]["post"]["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]
    options = {"k", "candidates", "rerank", "budget_ms", "timings"}
    options |= {"filters", "facets", "max_facet_values"}
    assert set(form["properties"]) == {"image", *options}
    assert form["properties"]["filters"]["type"] == "object"
    assert content["multipart/form-data"]["encoding"]["filters"] == {
        "contentType": "application/json"
    }
    properties = content["application/json"]["schema"]["properties"]
    assert set(properties) == {"image", "item_id", "image_url", *options}


def test_headers_that_every_such_answer_has(document: dict[str, Any]) -> None:
    for path in document["paths"].values():
        for method, operation in path.items():
            for status, response in operation["responses"].items():
                headers = set(response["headers"])
                assert "X-Request-Id" in headers
                assert ("Retry-After" in headers) == (status in ("429", "503"))
                assert ("WWW-Authenticate" in headers) == (status in ("401", "403"))
                limits = {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
                is_counted = method != "get" and status not in ("401", "403", "500")
                assert headers & limits == (limits if is_counted else set())
    for kind in ("text", "image"):
        found = document["paths"][f"/v1/search/{kind}"]["post"]["responses"]
        assert "X-Cache" in found["200"]["headers"]


def test_links_lead_to_operations_on_the_same_item(document: dict[str, Any]) -> None:
    item = document["paths"]["/v1/items/{item_id}"]
    names = {item[method]["operationId"] for method in ("get", "put", "delete")}
    names.add(document["paths"]["/v1/items/{item_id}/image"]["get"]["operationId"])
    for method, status in (("put", "200"), ("put", "201"), ("delete", "200")):
        links = item[method]["responses"][status]["links"].values()
        assert {link["operationId"] for link in links} <= names - {item[method]["operationId"]}
        assert all(link["parameters"] == {"item_id": "$request.path.item_id"} for link in links)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"query": "\u3000\x1f"}, "empty_text"),
        ({"query": "red", "k": 0}, "out_of_range"),
        ({"query": "red", "budget_ms": 0}, "invalid_request"),
        ({"query": "red", "colour": "red"}, "invalid_request"),
    ],
)
def test_what_the_document_rules_out_is_refused(
    body: dict[str, Any], code: str, client: httpx.Client
) -> None:
    response = client.post("/v1/search/text", json=body)
    assert (response.status_code // 100, response.json()["code"]) == (4, code)
