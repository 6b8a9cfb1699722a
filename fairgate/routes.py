"""Which requests are metered, and how: the LLM routes by themselves, others as configured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from starlette.types import Scope

from fairgate import codec
from fairgate.config import Route

OTHER_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
"""Methods of a route with a cost of its own, unless it names some. A preflight costs nothing."""

Choose = Callable[[Scope], Route | None]
"""The app's own say on requests that no configured route names; ``None``: not metered."""

_ANY = "*"
_EXEMPT = Route(exempt=True)
_Methods = dict[str, Route]


class RouteTable:
    """Finds the route that meters a request. Exempt paths cost one look into a dictionary.

    An exact path goes before a prefix, a longer prefix before a shorter one, and what is
    configured before the LLM routes.
    """

    def __init__(self, routes: Sequence[Route] = (), choose: Choose | None = None) -> None:
        self._exact: dict[str, _Methods] = {
            path: {"POST": Route(path=path, api=api)} for path, api in codec.ROUTES.items()
        }
        self._by_prefix: dict[str, _Methods] = {}
        self._choose = choose
        for route in routes:
            if route.path is not None:
                self._exact.setdefault(route.path, {}).update(_by_method(route))
            elif route.prefix is not None:
                self._by_prefix.setdefault(route.prefix, {}).update(_by_method(route))
        self._prefixes = tuple(sorted(self._by_prefix, key=len, reverse=True))

    def find(self, scope: Scope) -> Route | None:
        """The route of an ``http`` scope; ``None``: it passes untouched."""
        path = route_path(scope)
        if path in self._exact or (self._prefixes and path.startswith(self._prefixes)):
            method = scope["method"]
            for methods in self._candidates(path):
                route = methods.get(method) or methods.get(_ANY)
                if route is not None:
                    return None if route.exempt else route
        if self._choose is None:
            return None
        chosen = self._choose(scope)
        return None if chosen is None or chosen.exempt else chosen

    def _candidates(self, path: str) -> Iterator[_Methods]:
        if path in self._exact:
            yield self._exact[path]
        for prefix in self._prefixes:
            if path.startswith(prefix):
                yield self._by_prefix[prefix]


def route_path(scope: Scope) -> str:
    """The path within the app: without the ``root_path`` that servers and mounts put before it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]
    return path


def _by_method(route: Route) -> _Methods:
    if route.methods is not None:
        return dict.fromkeys(route.methods, route)
    if route.exempt:
        # Also takes the place of what the LLM routes say of single methods.
        return dict.fromkeys((_ANY, *OTHER_METHODS), _EXEMPT)
    return dict.fromkeys(("POST",) if route.api else OTHER_METHODS, route)
