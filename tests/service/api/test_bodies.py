from __future__ import annotations

from typing import Any

import httpx
import pytest

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
