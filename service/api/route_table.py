"""Which route a request belongs to, also where none is run: refused before, or of another method.

FastAPI notes the route of a request only once it runs, and names one method alone in a 405.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope


class RouteTable:
    """The routes of an app, in the order in which they are tried."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = [route for route in routes if isinstance(route, Route)]

    def template(self, scope: Scope) -> str | None:
        """The template of a request's address, `/v1/items/{item_id}`; None if it has none."""
        at_address = None
        for route in self._routes:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return route.path_format
            if match is Match.PARTIAL and at_address is None:
                at_address = route.path_format
        return at_address

    def methods(self, scope: Scope) -> list[str]:
        """The methods that a request's address takes, in alphabetical order."""
        found: set[str] = set()
        for route in self._routes:
            if route.matches(scope)[0] is not Match.NONE:
                found |= route.methods or set()
        return sorted(found)
