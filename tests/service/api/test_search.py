from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from index.snapshot import Snapshot
from service.search import Searcher

JSON = {"Content-Type": "application/json"}
TEXT, IMAGE = "/v1/search/text", "/v1/search/image"


def code_of(response: httpx.Response) -> str:
    """The code of a problem, which must be a whole one."""
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["type"] == f"urn:fashionbert:problem:{problem['code']}"
    assert problem["title"]
    assert problem["detail"]
    assert "Traceback" not in response.text
    assert "site-packages" not in response.text
    return str(problem["code"])


def scores(response: httpx.Response) -> list[tuple[str, float]]:
    assert response.status_code == 200, response.text
    return [(hit["id"], hit["score"]) for hit in response.json()["hits"]]


def test_text_search(client: httpx.Client, searcher: Searcher, snapshot: Snapshot) -> None:
    response = client.post(TEXT, json={"query": "red dress", "k": 5, "candidates": 20})
    assert response.status_code == 200
    body = response.json()
    expected = searcher.search_text("red dress", k=5, candidates=20)
    assert [hit["id"] for hit in body["hits"]] == [hit.item.id for hit in expected.hits]
    for hit, wanted in zip(body["hits"], expected.hits, strict=True):
        assert hit["rank"] == wanted.rank
        assert hit["score"] == pytest.approx(wanted.score, abs=1e-4)
        assert hit["probability"] == pytest.approx(wanted.probability, abs=1e-5)
        assert hit["recall_score"] == pytest.approx(wanted.recall_score, abs=1e-5)
        assert hit["recall_rank"] == wanted.recall_rank
        assert hit["view"] == wanted.view
        assert hit["item"] == {
            "id": wanted.item.id,
            "title": wanted.item.title,
            "text": wanted.item.text,
            "attributes": wanted.item.attributes,
            "views": wanted.item.views,
        }
    assert body["model"] == snapshot.model_id
    assert body["snapshot"] == snapshot.name
    assert body["truncated"] is False
    assert body["timings"] is None


def test_defaults_come_from_the_settings(client: httpx.Client) -> None:
    hits = client.post(TEXT, json={"query": "coat", "k": 20}).json()["hits"]
    assert [hit["score"] is None for hit in hits] == [False] * 16 + [True] * 4
    assert len(client.post(TEXT, json={"query": "coat"}).json()["hits"]) == 10


def test_numbers_as_json_has_them(client: httpx.Client) -> None:
    body = '\ufeff{"query": "coat", "k": 3.0, "budget_ms": 5e4, "candidates": null}'
    answer = client.post(TEXT, content=body.encode(), headers=JSON)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["hits"]) == 3


def test_rerank_false_and_timings(client: httpx.Client) -> None:
    response = client.post(TEXT, json={"query": "coat", "rerank": False, "timings": True})
    body = response.json()
    assert [hit["recall_rank"] for hit in body["hits"]] == list(range(1, 11))
    assert all(hit["score"] is None and hit["probability"] is None for hit in body["hits"])
    assert set(body["timings"]) == {"encode", "recall", "total"}


def test_a_picture_may_come_as_a_file_as_base64_and_as_a_data_url(
    client: httpx.Client, searcher: Searcher, photo: bytes
) -> None:
    encoded = base64.b64encode(photo).decode()
    by_file = client.post(IMAGE, files={"image": ("a.jpg", photo, "image/jpeg")}, data={"k": "4"})
    by_json = client.post(IMAGE, json={"image": encoded, "k": 4})
    by_url = client.post(IMAGE, json={"image": f"data:image/jpeg;base64,{encoded}", "k": 4})
    expected = searcher.search_image(photo, k=4, candidates=16)
    assert scores(by_file) == scores(by_json) == scores(by_url)
    assert [id for id, _ in scores(by_file)] == [hit.item.id for hit in expected.hits]


def test_the_fields_of_a_form(client: httpx.Client, photo: bytes) -> None:
    fields = {"k": "3", "candidates": "5", "rerank": "false", "timings": "true"}
    body = client.post(IMAGE, files={"image": photo}, data=fields).json()
    assert [hit["recall_rank"] for hit in body["hits"]] == [1, 2, 3]
    assert set(body["timings"]) == {"decode", "encode", "recall", "total"}


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_other_formats_of_the_same_picture(format: str, client: httpx.Client, photo: bytes) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(photo)).save(buffer, format, lossless=True)
    assert len(scores(client.post(IMAGE, files={"image": buffer.getvalue()}))) == 10


def test_search_by_item(client: httpx.Client, searcher: Searcher, snapshot: Snapshot) -> None:
    for id in snapshot.ids[:5]:  # the first ones are odd
        response = client.post(IMAGE, json={"item_id": id, "k": 96, "candidates": 96})
        assert id in dict(scores(response))
        expected = searcher.search_item(id, k=96, candidates=96)
        assert [i for i, _ in scores(response)] == [hit.item.id for hit in expected.hits]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"query": ""}, 400, "empty_text"),
        ({"query": " \t\n"}, 400, "empty_text"),
        ({"query": "a\ud800"}, 400, "invalid_text"),
        ({"query": "a" * 10_000}, 422, "text_too_long"),
        ({"query": "red", "k": 0}, 422, "out_of_range"),
        ({"query": "red", "k": -1}, 422, "out_of_range"),
        ({"query": "red", "k": 10**6}, 422, "out_of_range"),
        ({"query": "red", "k": 10**30}, 422, "out_of_range"),
        ({"query": "red", "candidates": 0}, 422, "out_of_range"),
        ({"query": "red", "candidates": 101}, 422, "out_of_range"),
        ({"query": "red", "k": 1.5}, 422, "invalid_request"),
        ({"query": "red", "k": None}, 422, "invalid_request"),
        ({"query": 7}, 422, "invalid_request"),
        ({"query": "red", "rerank": "perhaps"}, 422, "invalid_request"),
        ({"query": "red", "rerank": "no"}, 422, "invalid_request"),
        ({"query": "red", "rerank": 0}, 422, "invalid_request"),
        ({"query": "red", "timings": "on"}, 422, "invalid_request"),
        ({"query": "red", "k": "1"}, 422, "invalid_request"),
        ({"query": "red", "k": True}, 422, "invalid_request"),
        ({"query": "red", "candidates": "3"}, 422, "invalid_request"),
        ({"query": "red", "budget_ms": "50"}, 422, "invalid_request"),
        ({"query": "red", "budget_ms": True}, 422, "invalid_request"),
        ({"query": "red", "budget_ms": float("inf")}, 422, "invalid_request"),
        ({"query": "red", "max_facet_values": "3"}, 422, "invalid_request"),
        ({"query": "\u200b"}, 400, "empty_text"),
        ({"query": "red", "limit": 5}, 422, "invalid_request"),
        ({}, 422, "invalid_request"),
        ([], 422, "invalid_request"),
        (None, 422, "invalid_request"),
    ],
)
def test_bad_text_searches(body: Any, status: int, code: str, client: httpx.Client) -> None:
    response = client.post(TEXT, content=json.dumps(body), headers=JSON)
    assert (response.status_code, code_of(response)) == (status, code)
    assert all(one["location"].startswith("body") for one in response.json()["errors"])


def test_the_field_to_blame_is_named(client: httpx.Client) -> None:
    problem = client.post(TEXT, json={"query": "red", "k": 0}).json()
    assert problem["detail"] == "k is 0: choose 1 to 200"
    assert problem["errors"] == [{"location": "body.k", "message": problem["detail"]}]
    problem = client.post(TEXT, json={"query": " "}).json()
    assert problem["errors"] == [{"location": "body.query", "message": problem["detail"]}]
    problem = client.post(IMAGE, json={"image": "Zm9v"}).json()
    assert problem["errors"] == [{"location": "body.image", "message": problem["detail"]}]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"query": "\xff"}',
        b'{"query": "red", "k": ' + b"9" * 10_000 + b"}",
        b"[" * 4_000,
        b"[" * 50_000,
        b'{"query": "\\ud800"}',
        b'{"query": "red", "k": NaN}',
    ],
)
@pytest.mark.parametrize("path", [TEXT, IMAGE, "/v1/match"])
def test_bodies_that_are_not_json(path: str, content: bytes, client: httpx.Client) -> None:
    response = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    assert code_of(response) in ("bad_request", "malformed_json", "invalid_request", "invalid_text")


@pytest.mark.parametrize("path", [TEXT, "/v1/match"])
@pytest.mark.parametrize(
    ("content", "code", "detail"),
    [
        (b"", "malformed_json", "the body is not JSON: Expecting value at line 1 column 1"),
        (b'{"query": "\xff"}', "bad_request", "the body is no text: send JSON in UTF-8"),
        (b"9" * 10_000, "bad_request", "the body nests too deeply, or has a number of too many "),
        (b"[" * 50_000, "invalid_request", "the JSON has more than the "),
        (b"[]", "invalid_request", "body: Input should be an object"),
        (b'"red"', "invalid_request", "body: Input should be an object"),
    ],
)
def test_what_is_wrong_with_a_body_is_told_in_plain_words(
    path: str, content: bytes, code: str, detail: str, client: httpx.Client
) -> None:
    problem = client.post(path, content=content, headers=JSON).json()
    assert problem["code"] == code
    assert problem["detail"].startswith(detail)


@pytest.mark.parametrize(
    ("path", "content", "detail"),
    [
        (TEXT, b'{"query":\n "red" "k"}', "Expecting ',' delimiter at line 2 column 8"),
        (TEXT, b"query=red", "Expecting value at line 1 column 1"),
        ("/v1/match", b'{"pairs": [}', "Expecting value at line 1 column 12"),
        (IMAGE, b'{"k":\n }', "expected value at line 2 column 2"),
    ],
)
def test_broken_json_is_told_where_and_why(
    path: str, content: bytes, detail: str, client: httpx.Client
) -> None:
    problem = client.post(path, content=content, headers=JSON).json()
    assert problem["code"] == "malformed_json"
    assert problem["detail"].startswith("the body is not JSON: ")
    assert problem["detail"].endswith(detail)


@pytest.mark.parametrize("path", [TEXT, IMAGE, "/v1/match"])
@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("application/x-www-form-urlencoded", "application/x-www-form-urlencoded"),  # curl -d
        ("text/plain", "text/plain"),
        ("application/vnd.api+json", "application/vnd.api+json"),
        (None, "of no type"),
    ],
)
def test_a_body_that_does_not_say_it_is_json(
    path: str, kind: str | None, named: str, client: httpx.Client
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    response = client.post(path, content=b'{"query": "x"}', headers=headers)
    assert (response.status_code, code_of(response)) == (415, "unsupported_media_type")
    assert f"the body is {named}: send " in response.json()["detail"]
    assert "application/json" in response.json()["detail"]


def test_json_may_name_its_charset(client: httpx.Client) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.post(TEXT, content=b'{"query": "x"}', headers=headers).status_code == 200


def test_bad_pictures(bad_picture: Any, client: httpx.Client) -> None:
    as_file = client.post(IMAGE, files={"image": bad_picture.data})
    assert (as_file.status_code, code_of(as_file)) == (bad_picture.status, bad_picture.code)
    encoded = base64.b64encode(bad_picture.data).decode()
    as_json = client.post(IMAGE, json={"image": encoded})
    assert (as_json.status_code, code_of(as_json)) == (bad_picture.status, bad_picture.code)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"item_id": "nobody"}, 404, "unknown_item"),
        ({"item_id": ""}, 404, "unknown_item"),
        ({"image": "%%%"}, 400, "invalid_base64"),
        ({"image": "Zm9"}, 400, "invalid_base64"),
        ({"image": "é"}, 400, "invalid_base64"),
        ({"image": "http://127.0.0.1/a.jpg"}, 400, "invalid_base64"),
        ({"image": "data:image/jpeg;base64"}, 400, "not_an_image"),
        ({}, 422, "invalid_request"),
        ({"image": "Zm9v", "item_id": "a"}, 422, "invalid_request"),
        ({"item_id": "summer/dresses/1", "k": 0}, 422, "out_of_range"),
    ],
)
def test_bad_picture_searches(body: Any, status: int, code: str, client: httpx.Client) -> None:
    response = client.post(IMAGE, json=body)
    assert (response.status_code, code_of(response)) == (status, code)


def test_bad_forms(client: httpx.Client, photo: bytes) -> None:
    def post(**options: Any) -> tuple[int, str]:
        response = client.post(IMAGE, **options)
        return response.status_code, code_of(response)

    assert post(files={"photo": photo}) == (422, "invalid_request")
    assert post(files={"image": (None, b"text")}) == (422, "invalid_request")
    assert post(files={"image": photo}, data={"k": "0"}) == (422, "out_of_range")
    assert post(files={"image": photo}, data={"k": "many"}) == (422, "invalid_request")
    assert post(files={"image": photo}, data={"item_id": "x"}) == (422, "invalid_request")
    assert post(files=[("image", photo), ("image", photo)]) == (400, "bad_request")
    broken = {"Content-Type": "multipart/form-data"}
    assert post(content=b"--x\r\n", headers=broken) == (400, "bad_request")
    cut = {"Content-Type": "multipart/form-data; boundary=x"}
    content = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + photo
    assert post(content=content, headers=cut) == (400, "bad_request")


@pytest.mark.parametrize("kind", ["text/plain", "image/jpeg", "application/xml", ""])
def test_other_content_types(kind: str, client: httpx.Client, photo: bytes) -> None:
    response = client.post(IMAGE, content=photo, headers={"Content-Type": kind})
    assert (response.status_code, code_of(response)) == (415, "unsupported_media_type")


def test_after_all_that_it_answers_as_before(client: httpx.Client, bad_pictures: list[Any]) -> None:
    good = {"query": "red dress", "k": 5}
    before = scores(client.post(TEXT, json=good))

    def bad(number: int) -> int:
        picture = bad_pictures[number % len(bad_pictures)]
        return client.post(IMAGE, files={"image": picture.data}).status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(bad, range(40)))
        during = scores(client.post(TEXT, json=good))
    assert set(statuses) == {400, 413, 415}
    assert before == during == scores(client.post(TEXT, json=good))


@examples(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(query=st.text(max_size=60))
def test_any_text_gets_hits_or_a_problem(query: str, client: httpx.Client) -> None:
    response = client.post(
        TEXT,
        content=json.dumps({"query": query, "k": 1, "candidates": 1}),
        headers={"Content-Type": "application/json"},
    )
    if query.strip():
        assert len(scores(response)) == 1
    else:
        assert code_of(response) == "empty_text"


@examples(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(start=st.integers(0, 3000), noise=st.binary(max_size=40))
def test_any_damage_to_a_picture_gets_hits_or_a_problem(
    start: int, noise: bytes, client: httpx.Client, photo: bytes
) -> None:
    data = photo[:start] + noise + photo[start + len(noise) :]
    response = client.post(IMAGE, files={"image": data}, data={"k": "1", "candidates": "1"})
    if response.status_code != 200:
        assert code_of(response) in (
            "not_an_image",
            "truncated",
            "unsupported_format",
            "too_many_pixels",
        )


@pytest.mark.parametrize("path", [TEXT, IMAGE])
def test_a_budget_of_time(client: httpx.Client, snapshot: Snapshot, path: str) -> None:
    asked: dict[str, object] = {"query": "blue shirt"} if path == TEXT else {}
    if path == IMAGE:
        asked = {"item_id": snapshot.ids[7]}
    asked |= {"candidates": 20, "k": 20}
    none = client.post(path, json={**asked, "budget_ms": 0.001})
    assert (none.status_code, none.headers["x-cache"]) == (200, "miss")
    body = none.json()
    assert (body["candidates"], body["reranked"], body["degraded"]) == (20, 0, None)
    assert [hit["recall_rank"] for hit in body["hits"]] == list(range(1, 21))
    # What is less for want of time is not kept; what is there already costs no time.
    whole = client.post(path, json={**asked, "budget_ms": 60_000})
    assert whole.headers["x-cache"] == "miss"
    assert whole.json()["reranked"] == 20
    again = client.post(path, json={**asked, "budget_ms": 0.001})
    assert again.headers["x-cache"] == "hit"
    assert again.json()["hits"] == whole.json()["hits"]
    for bad in (0, -1, "soon"):
        assert code_of(client.post(path, json={**asked, "budget_ms": bad})) == "invalid_request"


def test_long_and_short_searches_at_the_same_time(client: httpx.Client, snapshot: Snapshot) -> None:
    """They take turns on the same workers; each gets its own answer."""
    queries = [("a red dress", 100), ("x", 1), ("blue coat", 5), ("a red dress", 3)] * 4
    alone = {
        asked: scores(client.post(TEXT, json={"query": asked[0], "candidates": asked[1], "k": 1}))
        for asked in set(queries)
    }

    def ask(asked: tuple[str, int], number: int) -> list[tuple[str, float]]:
        body = {"query": asked[0], "candidates": asked[1], "k": 1}
        return scores(client.post(TEXT, json={**body, "max_facet_values": 1 + number}))  # no cache

    with ThreadPoolExecutor(len(queries)) as threads:
        answers = list(threads.map(ask, queries, range(len(queries))))
    for asked, answer in zip(queries, answers, strict=True):
        assert answer[0][0] == alone[asked][0][0]
        assert answer[0][1] == pytest.approx(alone[asked][0][1], abs=1e-4)
