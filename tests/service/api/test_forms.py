from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.api.forms import Part, read_form
from service.api.problems import ProblemError

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


def part(disposition: str, data: bytes, *headers: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *headers]
    return b"--B\r\n%s\r\n\r\n%s\r\n" % ("\r\n".join(lines).encode(), data)


def test_parts_are_read_as_they_were_sent() -> None:
    everything = bytes(range(256)) + b"\r\n--\r\n--A\r\n--B\r--B--\r\n--Bx\r\n--B-\r\n"
    body = (
        part('name="größe"', "ä".encode())
        + part('name="image"; filename="a;b.png"', everything, "Content-Type: image/png")
        + part("name=image; filename=c", b"")
        + b"--B--\r\nand what follows"
    )
    assert read_form(body, TYPE, max_files=2) == [
        Part("größe", "ä".encode(), False),
        Part("image", everything, True),
        Part("image", b"", True),
    ]


def test_a_form_as_httpx_writes_it() -> None:
    fields, files = {"k": "5", "filters": '{"a": "é"}'}, [("image", ("x", b"\r\n--")), ("i", b"")]
    request = httpx.Request("POST", "http://test", data=fields, files=files)
    parts = read_form(request.read(), request.headers["content-type"], max_files=2)
    assert [(each.name, each.text(), each.is_file) for each in parts] == [
        ("k", "5", False),
        ("filters", '{"a": "é"}', False),
        ("image", "\r\n--", True),
        ("i", "", True),
    ]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"--B--\r\n", "multipart/form-data", "has no boundary"),
        (b"--B--\r\n", "multipart/form-data; boundary=" + "x" * 300, "cannot be read"),
        (b"", TYPE, "cut short"),
        (b"no form at all", TYPE, "cannot be read"),
        (part("name=a", b""), TYPE, "cut short"),
        (part("name=a", b"") + b"--B-", TYPE, "cut short"),
        (part("filename=a", b"") + b"--B--", TYPE, "has no name"),
        (b"--B\r\nX: y\r\n\r\n\r\n--B--", TYPE, "has no name"),
        (b'--B\r\nContent-Disposition: x; name="\xff"\r\n\r\n\r\n--B--', TYPE, "UTF-8"),
        (part("name=a; filename=a", b"") * 3 + b"--B--", TYPE, "more than 2 files"),
        (part("name=a", b"") * 9 + b"--B--", TYPE, "more than 8 fields"),
        (part("name=a", b"", *["X: y"] * 20) + b"--B--", TYPE, "cannot be read"),
        (part("name=a", b"", "X: " + "y" * 10_000) + b"--B--", TYPE, "cannot be read"),
    ],
)
def test_what_is_no_form(body: bytes, kind: str, message: str) -> None:
    with pytest.raises(ProblemError, match=message) as raised:
        read_form(body, kind, max_files=2)
    assert raised.value.code == "bad_request"


def test_eight_fields_and_all_files_are_taken() -> None:
    body = part("name=a", b"") * 8 + part("name=a; filename=a", b"") * 2 + b"--B--"
    assert len(read_form(body, TYPE, max_files=2)) == 10


def test_a_field_in_another_encoding() -> None:
    (field,) = read_form(part("name=a", b"caf\xe9") + b"--B--", TYPE, max_files=0)
    with pytest.raises(ProblemError, match="'a' is no text: send it as UTF-8"):
        field.text()


def test_a_boundary_that_is_imitated_without_end() -> None:
    body = part("name=a; filename=a", b"\r\n--By" * 1_000_000) + b"--B--"
    with pytest.raises(ProblemError, match="stands in its content"):
        read_form(body, TYPE, max_files=1)


@pytest.mark.parametrize(
    ("files", "data"),
    [
        ([("image", b"x"), ("image", b"y")], {}),
        ([("image", b"x")], {"image": "text"}),
        ([], {"image": "text"}),
    ],
)
def test_a_search_takes_one_picture(
    files: list[tuple[str, bytes]], data: dict[str, str], client: httpx.Client
) -> None:
    response = client.post("/v1/search/image", files=files or {"x": (None, b"")}, data=data)
    assert response.status_code in (400, 422)
    assert response.json()["code"] in ("bad_request", "invalid_request")


def test_a_product_is_given_once(client: httpx.Client) -> None:
    body = part("name=product", b'{"title": "a"}') * 2 + b"--B--"
    response = client.put("/v1/items/a", content=body, headers={"Content-Type": TYPE})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert "the product's fields as JSON, once" in response.text
