from __future__ import annotations

import threading
from typing import Any

import anyio
import httpx
import pytest

from service.api.bodies import aside

TYPE = "multipart/form-data; boundary=B"


def form(field: str, data: bytes) -> bytes:
    """A form with one field and a file that is no picture."""
    return (
        b'--B\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        b'--B\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx\r\n--B--\r\n'
    ) % (field.encode(), data)


@pytest.mark.parametrize(
    ("charset", "data"),
    [
        ("undefined", b"{}"),  # each of these is a codec of Python's
        ("utf-7", b'{"+2AA-":1}'),
        ("unicode_escape", b'{"\\ud800":1}'),
        ("utf-16", b"{}"),
        ("idna", b"\xff"),
        ("latin-1", b'{"caf\xe9":1}'),
        ("no-such-charset", b"{}"),
        ('""', b"{}"),
    ],
)
def test_forms_are_utf_8(charset: str, data: bytes, client: httpx.Client) -> None:
    headers = {"Content-Type": f"{TYPE}; charset={charset}"}
    search = client.post("/v1/search/image", content=form("filters", data), headers=headers)
    put = client.put("/v1/items/a", content=form("product", data), headers=headers)
    for response in (search, put):
        assert (response.status_code, response.json()["code"]) == (400, "bad_request")
        assert "send it as UTF-8" in response.json()["detail"]
    assert client.get("/v1/items/a").status_code == 404


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"Utf-8"', "us-ascii"])
def test_a_form_may_say_that_it_is(charset: str, client: httpx.Client, photo: bytes) -> None:
    headers = {"Content-Type": f"{TYPE}; charset={charset}"}
    content = form("filters", b"{}").replace(b"\r\nx\r\n", b"\r\n%s\r\n" % photo)
    response = client.post("/v1/search/image", content=content, headers=headers)
    assert response.status_code == 200, response.text


def test_a_form_that_is_cut_short(client: httpx.Client) -> None:
    for method, path in (("POST", "/v1/search/image"), ("PUT", "/v1/items/a")):
        request: dict[str, Any] = {
            "content": form("k", b"1")[:-4],
            "headers": {"Content-Type": TYPE},
        }
        response = client.request(method, path, **request)
        assert (response.status_code, response.json()["code"]) == (400, "bad_request")
        assert "closing boundary" in response.json()["detail"]


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


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("filters", b'{"a":[%s1]}' % (b"1," * 50_000), "invalid_request"),
        ("facets", b"[%s1]" % (b"1," * 50_000), "invalid_request"),
        ("facets", b"[%s1]" % (b"1," * 1_000), "out_of_range"),
    ],
)
def test_fields_of_a_form_that_have_many_values(
    field: str, value: bytes, code: str, client: httpx.Client
) -> None:
    headers = {"Content-Type": TYPE}
    response = client.post("/v1/search/image", content=form(field, value), headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, code)


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


def test_only_what_is_large_is_read_beside_the_event_loop() -> None:
    async def read_by(size: int) -> int:
        return await aside(size, threading.get_ident)

    assert anyio.run(read_by, 1_000) == threading.get_ident()
    assert anyio.run(read_by, 1_000_000) != threading.get_ident()
