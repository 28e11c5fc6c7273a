from __future__ import annotations

import base64
import hashlib
import re

import httpx


def test_the_page_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", response.text)
    assert "innerHTML" not in response.text
    assert " style=" not in response.text


def test_its_policy_lets_its_own_script_and_style_run_and_nothing_else(
    client: httpx.Client,
) -> None:
    response = client.get("/")
    policy = dict(
        part.strip().split(" ", 1)
        for part in response.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", response.text, flags=re.DOTALL)
        assert len(inline) == response.text.count(f"<{tag}") == 1
        digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
