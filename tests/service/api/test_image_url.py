from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

Serve = Callable[..., Any]
IMAGE = "/v1/search/image"


@pytest.mark.parametrize(
    "url", ["https://cdn.example.com/a.jpg", "http://127.0.0.1/", "file:///etc/passwd", "", "?"]
)
def test_pictures_are_not_fetched_unless_hosts_are_named(url: str, client: httpx.Client) -> None:
    problem = client.post(IMAGE, json={"image_url": url}).json()
    assert (problem["status"], problem["code"]) == (422, "url_refused")
    assert problem["errors"][0]["location"] == "body.image_url"


def test_a_name_that_leads_inside_is_refused(serve: Serve) -> None:
    # By RFC 6761 no resolver has an address for the one, and each has loopback for the other.
    hosts = "nothing.invalid,inside.localhost"
    with serve(picture_hosts=hosts, picture_seconds=60) as running:

        def ask(host: str) -> tuple[int, str]:
            answer = running.client.post(IMAGE, json={"image_url": f"https://{host}/a.jpg"})
            return answer.status_code, answer.json()["code"]

        assert ask("elsewhere.example.com") == (422, "url_refused")
        assert ask("nothing.invalid") == (424, "url_failed")
        # Not every C library knows of the second one.
        assert ask("inside.localhost") in ((422, "url_refused"), (424, "url_failed"))


def test_one_picture_and_no_more(client: httpx.Client) -> None:
    body = {"image_url": "https://cdn.example.com/a.jpg", "item_id": "a"}
    assert client.post(IMAGE, json=body).json()["code"] == "invalid_request"
