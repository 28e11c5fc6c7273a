from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager

import httpx
import pytest

from service.api.app import create_app
from service.live_search import LiveSearch
from service.proxies import caller_address
from service.settings import Settings

Serving = Callable[..., AbstractContextManager[str]]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("trusted", ["", "127.0.0.1", "127.0.0.0/8", "*"])
def test_callers_over_ipv4_of_a_port_of_ipv6(
    trusted: str, settings: Settings, live: LiveSearch, serving: Serving
) -> None:
    """Each has a bucket of its own, and a proxy among them is known by its IPv4 address."""
    changes = {"rate_limit": 0.001, "rate_burst": 1, "trusted_proxies": trusted}
    app = create_app(settings.model_copy(update=changes), live)
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with serving(app, listener) as address:

        def ask(source: str, forwarded: str) -> int:
            transport = httpx.HTTPTransport(local_address=source)
            with httpx.Client(transport=transport, timeout=60) as client:
                answer = client.post(
                    f"{address}/v1/match", headers={"X-Forwarded-For": forwarded}, json={}
                )
                return answer.status_code

        assert ask("127.0.0.1", "93.184.215.14") != 429
        assert ask("127.0.0.1", "93.184.215.14") == 429
        # Another caller, as far as the header is believed.
        assert (ask("127.0.0.1", "93.184.215.15") == 429) == (not trusted)
        if not trusted:
            assert ask("127.0.0.2", "93.184.215.14") != 429


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("balancer", "None"),
        ("", "None"),
    ],
)
def test_an_address_is_the_callers_own(host: str, address: str) -> None:
    assert str(caller_address({"client": (host, 1)})) == address
    assert caller_address({"client": None}) is None
    assert caller_address({}) is None
