"""What all operations of the OpenAPI document have in common, by their method and their scope."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from service.api.access import counted, required_scope
from service.api.problems import REFERENCE, Problem, header, responses
from service.security import Policy, Scope

_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
#: What is answered before a route, by the scope that an operation needs.
_REFUSALS: dict[Scope, tuple[str, ...]] = {
    "search": ("missing_key", "unknown_key"),
    "admin": ("missing_key", "unknown_key", "wrong_scope"),
}
_COUNTED = ("rate_limited", "overloaded")  # whatever is counted is also computed, in a queue
_REQUEST_ID = header("names this request in the service's log", required=True)
_RATE_LIMIT = {
    f"X-RateLimit-{name}": (f"{what}; where the service limits its callers", minimum)
    for name, what, minimum in (
        ("Limit", "how many requests a caller may send at once", 1),
        ("Remaining", "how many of them are left", 0),
        ("Reset", "seconds until all of them are there again", 0),
    )
}
_NOT_COUNTED = ("401", "403", "500")  # before the limit, or where nothing is sure any more


def install(app: FastAPI, policy: Policy, *, max_pairs: int, open_metrics: bool) -> None:
    """Complete the document that FastAPI makes; `max_pairs` and `open_metrics` are settings."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            _describe(document, policy, open_metrics)
            pairs = document["components"]["schemas"]["MatchRequest"]["properties"]["pairs"]
            pairs["maxItems"] = max_pairs
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _describe(document: dict[str, Any], policy: Policy, open_metrics: bool) -> None:
    """Add `Problem`, and take out FastAPI's own 422, which is answered nowhere."""
    schemas = document["components"]["schemas"]
    for address, path in document["paths"].items():
        for method, operation in path.items():
            scope = required_scope(method.upper(), address, open_metrics=open_metrics)
            _describe_answers(operation["responses"], scope, counted(method.upper()))
            if policy.keys and scope is not None:
                operation["security"] = _security(policy, scope)
            for content in operation.get("requestBody", {}).get("content", {}).values():
                schemas.update(content["schema"].pop("$defs", {}))
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    problem = Problem.model_json_schema(ref_template=REFERENCE + "{model}")
    schemas.update(problem.pop("$defs"))
    schemas["Problem"] = problem
    if policy.keys:
        document["components"]["securitySchemes"] = _SECURITY_SCHEMES


def _security(policy: Policy, scope: Scope) -> list[dict[str, list[str]]]:
    """Ways to send a key, any of which will do; `{}` among them where none is needed."""
    keys: list[dict[str, list[str]]] = [{name: []} for name in _SECURITY_SCHEMES]
    return [*keys, {}] if policy.anonymous == scope else keys


def _describe_answers(described: dict[str, Any], scope: Scope | None, is_counted: bool) -> None:
    own = described.get("422", {}).get("content", {}).get("application/json")
    if own is not None:
        del described["422"]
    if scope is not None:
        _add_problems(described, *_REFUSALS[scope], *(_COUNTED if is_counted else ()))
    for status, response in described.items():
        headers = response.setdefault("headers", {})
        headers["X-Request-Id"] = _REQUEST_ID
        if is_counted and status not in _NOT_COUNTED:
            for name, (what, minimum) in _RATE_LIMIT.items():
                headers[name] = header(
                    what, required=status == "429", type="integer", minimum=minimum
                )


def _add_problems(described: dict[str, Any], *codes: str) -> None:
    """Add what the middleware and the queue may answer in a route's place."""
    for status, response in responses(*codes).items():
        known = described.setdefault(str(status), response)
        if known is not response and response["description"] not in known["description"]:
            known["description"] += f", {response['description']}"
