"""Who may come in, and how often: decided before a request's body is read."""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import security
from service.api.problems import ProblemError
from service.logs import current_request
from service.metrics import Metrics
from service.proxies import caller_address
from service.rate_limit import Decision, RateLimiter
from service.security import Key, Policy

ANONYMOUS = "anonymous"

#: What anyone may read: that the service lives, the page, and how to call it.
_OPEN = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
_SELF_REPORTS = frozenset({"/metrics", "/v1/status"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_SEARCHES = "/v1/search/"
_MATCH = "/v1/match"
_REALM = 'Bearer realm="fashionbert"'


def required_scope(method: str, path: str, *, open_metrics: bool = False) -> security.Scope | None:
    """What a request needs: nothing, `search` to read and to search, `admin` for all else."""
    if path in _OPEN or (open_metrics and path in _SELF_REPORTS):
        return None
    if method in _READING:
        return "search"
    if method == "POST" and (path.startswith(_SEARCHES) or path == _MATCH):
        return "search"
    return "admin"


def counted(method: str) -> bool:
    """Whether requests of a method count against the rate limit: reading does not."""
    return method not in _READING


class Access:
    """ASGI middleware: API keys, then rate limits.

    Searches, matches and changes count against the limit; reading an item or its picture does not.
    """

    def __init__(
        self,
        app: ASGIApp,
        policy: Policy,
        limiter: RateLimiter | None,
        metrics: Metrics,
        open_metrics: bool = False,
    ) -> None:
        self.app = app
        self.policy = policy
        self.limiter = limiter
        self.metrics = metrics
        self.open_metrics = open_metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer with 401, 403 or 429."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        needed = required_scope(scope["method"], scope["path"], open_metrics=self.open_metrics)
        if needed is None:
            await self.app(scope, receive, send)
            return
        try:
            key = self._admitted(Headers(scope=scope), needed)
        except ProblemError as error:
            self.metrics.refused(error.code)
            await error.response()(scope, receive, send)
            return
        name = ANONYMOUS if key is None else key.name
        record = current_request.get()
        if record is not None:
            record.caller = name
        if self.limiter is None or not counted(scope["method"]):
            await self.app(scope, receive, send)
            return
        caller = f"address:{_network(scope)}" if key is None else f"key:{key.name}"
        decision = await self.limiter.take(caller)
        if not decision.allowed:
            self.metrics.rate_limited(name)
            await _too_many(decision).response()(scope, receive, send)
            return
        await self.app(scope, receive, _with_headers(send, decision.headers()))

    def _admitted(self, headers: Headers, needed: security.Scope) -> Key | None:
        """The key of a caller who may go on; None for one without a key.

        Raises:
            ProblemError: the caller may not.
        """
        secret = presented(headers)
        if secret is None or not self.policy.keys:  # where there are none it can be none of them
            if self._anyone_may(headers, needed):
                return None
            raise ProblemError("missing_key", self._missing(), {"WWW-Authenticate": _REALM})
        key = self.policy.keys.find(secret)
        if key is None:
            raise ProblemError(
                "unknown_key",
                "the API key is not one of this service's: look whether it was cut or revoked",
                {"WWW-Authenticate": f'{_REALM}, error="invalid_token"'},
            )
        if not key.allows(needed):
            raise ProblemError(
                "wrong_scope",
                f"key {key.name} has the scope {key.scope}, and this needs {needed}",
                {"WWW-Authenticate": f'{_REALM}, error="insufficient_scope", scope="{needed}"'},
            )
        return key

    def _missing(self) -> str:
        """What a caller can do who is refused without a key."""
        if self.policy.keys:
            return "send an API key as `Authorization: Bearer …` or `X-API-Key: …`"
        local = self.policy.anonymous == "admin"
        here = "under the name localhost or 127.0.0.1, or " if local else ""
        return (
            "the service has no API keys, and without one nobody may change the catalogue from "
            f"here: do it {here}with a key of `fashionbert key new`"
        )

    def _anyone_may(self, headers: Headers, needed: security.Scope) -> bool:
        if needed == "admin" and not security.is_loopback(_host_name(headers.get("host", ""))):
            # A web page whose own name was made to lead to this machine (DNS rebinding).
            return False
        return self.policy.anonymous in (needed, "admin")


def _host_name(host: str) -> str:
    """The name or address in a Host header."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def presented(headers: Headers) -> str | None:
    """The key a request carries: `X-API-Key`, else a bearer token."""
    key = headers.get("x-api-key")
    if key is not None:
        return key.strip()
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _network(scope: Scope) -> str:
    """The caller's address; of IPv6 the /64, within which one caller has them all."""
    address = caller_address(scope)
    if address is None:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
    return str(address)


def _too_many(decision: Decision) -> ProblemError:
    headers = decision.headers()
    return ProblemError(
        "rate_limited",
        f"too many requests: there is room for the next one in {headers['Retry-After']} s",
        headers,
    )


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return sender
