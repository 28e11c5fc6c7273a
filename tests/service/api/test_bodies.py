from __future__ import annotations

import gzip
import threading

import anyio
import httpx
import pytest

from service.api.bodies import aside

JSON = {"Content-Type": "application/json"}


def listed(start: str, value: str, n: int) -> bytes:
    """JSON that ends in a list, in an object, of `n` times the same."""
    return f"{start}[{','.join([value] * n)}]}}".encode()


def keyed(n: int) -> str:
    return ",".join(f'"{key}":1' for key in range(n))


@pytest.mark.parametrize(
    ("method", "path", "content", "code", "detail"),
    [
        (
            "POST",
            "/v1/match",
            listed('{"pairs":', "{}", 50_000),
            "invalid_request",
            "the JSON has ",
        ),
        (
            "POST",
            "/v1/match",
            listed('{"pairs":', "{}", 500),
            "invalid_request",
            "body.pairs.0: ",
        ),
        (
            "POST",
            "/v1/match",
            listed('{"pairs":', '{"text":"a","image_item_id":"b"}', 300),
            "out_of_range",
            "there are 300 pairs",
        ),
        (
            "POST",
            "/v1/search/text",
            listed('{"facets":', "1", 3_000),
            "out_of_range",
            "there are 3",
        ),
        (
            "POST",
            "/v1/search/text",
            listed('{"query":"x","filters":{},"facets":', "1", 90_000),
            "invalid_request",
            "the JSON has more than the 4,096 values",
        ),
        (
            "POST",
            "/v1/search/text",
            f'{{"query":"x",{keyed(3_000)}}}'.encode(),
            "invalid_request",
            "body: the object has 3,001 fields",
        ),
        (
            "POST",
            "/v1/search/image",
            listed('{"item_id":"x","facets":', "1", 90_000),
            "invalid_request",
            "the JSON has more",
        ),
        (
            "PUT",
            "/v1/items/a",
            listed('{"text":"x","images":', "1", 100_000),
            "invalid_request",
            "body.images: List should have at most 16 items",
        ),
        (
            "PUT",
            "/v1/items/a",
            f'{{"text":"x","attributes":{{{keyed(20_000)}}}}}'.encode(),
            "invalid_request",
            "body.attributes: a product has at most 256 attributes",
        ),
        (
            "POST",
            "/v1/search/text",
            b'{"query":"x","filters":[]}',
            "invalid_request",
            "body.filters: Input should be an object",
        ),
        (
            "PUT",
            "/v1/items/a",
            f'{{"text":"x",{keyed(20_000)}}}'.encode(),
            "invalid_request",
            "body: the object has 20,001 fields",
        ),
    ],
)
def test_many_faults_are_refused_in_few_words(
    method: str, path: str, content: bytes, code: str, detail: str, client: httpx.Client
) -> None:
    """Each of them would take memory and time as an error of its own."""
    response = client.request(method, path, content=content, headers=JSON)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, code)
    assert problem["detail"].startswith(detail)
    assert len(problem.get("errors", ())) <= 50
    assert len(response.content) < 20_000


def test_faults_that_are_not_listed_are_counted(client: httpx.Client) -> None:
    content = listed('{"pairs":', "{}", 60)
    problem = client.post("/v1/match", content=content, headers=JSON).json()
    assert problem["detail"].endswith(" (and 59 more)")
    assert problem["errors"][-1]["location"] == "body.pairs.49"


def test_a_name_without_end_is_cut_in_the_answer(client: httpx.Client) -> None:
    response = client.post("/v1/search/text", json={"query": "x", "a" * 200_000: 1})
    assert response.status_code == 422
    assert len(response.content) < 5_000


def test_json_is_utf_8(client: httpx.Client) -> None:
    """In UTF-16 the values of a body are not counted."""
    for encoding, status in (
        ("utf-8", 200),
        ("utf-8-sig", 200),
        ("utf-16", 400),
        ("utf-16-le", 400),
    ):
        content = '{"query": "Größe"}'.encode(encoding)
        response = client.post("/v1/search/text", content=content, headers=JSON)
        assert response.status_code == status


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/search/text"),
        ("POST", "/v1/search/image"),
        ("POST", "/v1/match"),
        ("PUT", "/v1/items/a"),
        ("POST", "/v1/items:batch"),
    ],
)
def test_a_compressed_body_is_told_so(method: str, path: str, client: httpx.Client) -> None:
    headers = {**JSON, "Content-Encoding": "gzip"}
    response = client.request(method, path, content=gzip.compress(b"{}"), headers=headers)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (415, "unsupported_media_type")
    assert problem["detail"] == "the body is encoded as gzip: send it as it is"
    assert response.headers["accept-encoding"] == "identity"


def test_only_what_is_large_is_read_beside_the_event_loop() -> None:
    async def read_by(size: int) -> int:
        return await aside(size, threading.get_ident)

    assert anyio.run(read_by, 1_000) == threading.get_ident()
    assert anyio.run(read_by, 1_000_000) != threading.get_ident()
