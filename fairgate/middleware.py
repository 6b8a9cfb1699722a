"""The middleware: the door between clients and the app that serves them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from fairgate import headers
from fairgate.config import Config, Route
from fairgate.dashboard.app import PATH as DASHBOARD
from fairgate.engines.build import AppEngineFactory
from fairgate.errors import FairgateError, Unavailable
from fairgate.exchange import Exchange, Terms
from fairgate.identity import Authenticate
from fairgate.me.app import PATH as ME
from fairgate.me.app import Me
from fairgate.metering import Cost
from fairgate.mounting import ConfigSource, OwnRuntime, mounted_config
from fairgate.operators import Operators
from fairgate.refusing import OnRefusal, Refuser
from fairgate.routes import Choose, RouteTable, route_path
from fairgate.runtime import Runtime
from fairgate.ticket import SCOPE_KEY

_FOR_OPERATORS = f"{DASHBOARD}/"

log = structlog.get_logger("fairgate.mounting")


class FairGate:
    """Pure-ASGI middleware that admits LLM requests fairly; all else passes untouched.

    It works on the ``runtime`` that it is given, or opens one of its own from ``config``: a
    :class:`Config`, what a configuration file holds as a mapping, or the path of one; by default
    one lane, one tenant who needs no key and the embedded store. Its own starts with the app, on
    the ``lifespan`` scope, or with the first metered request where the server sends none; it ends
    with the app, with :meth:`aclose`, or with the event loop.

    ``authenticate`` tells from the scope who sends a request, instead of API keys; it may be
    ``async``, and raises ``Unauthenticated`` or ``Forbidden`` to refuse. ``routes`` is asked about
    requests that neither the configuration nor the LLM routes name: it returns the ``Route`` that
    says how to meter one, or ``None``. ``cost`` tells the units of requests on routes that say
    nothing about it themselves. ``on_refusal`` makes the app's own answer to a refused request, an
    ASGI app such as a Starlette ``Response``; headers for retries and limits are added to it.
    ``app_engine`` makes the engines of ``type: app``; without it their capacity is what the
    configuration says.

    A tenant finds what it has and uses at ``/fairgate/v1/me`` of an app with a runtime of its own;
    with ``admin.mounted``, operators find dashboard and admin API at ``/fairgate/`` of it.

    A handler finds its :class:`Ticket` as ``scope["fairgate"]``: who sends the request, its grant,
    and ``report_usage()``. Raises ``ConfigError`` for a configuration that is wrong, with every
    problem found.
    """

    def __init__(
        self,
        app: ASGIApp,
        runtime: Runtime | None = None,
        *,
        config: ConfigSource | None = None,
        authenticate: Authenticate | None = None,
        routes: Choose | None = None,
        cost: Cost | None = None,
        on_refusal: OnRefusal | None = None,
        app_engine: AppEngineFactory | None = None,
    ) -> None:
        if runtime is not None and (config is not None or app_engine is not None):
            raise TypeError("FairGate: expected a runtime, or config and app_engine; got both")
        self.app = app
        self.rng = random.Random()  # noqa: S311 — jitter of Retry-After
        self._terms = Terms(app, Refuser(self.rng, on_refusal), authenticate, cost)
        self._runtime = runtime
        self._own: OwnRuntime | None = None
        self._me: tuple[Runtime, Me] | None = None
        self._has_operators = False
        self._operators: Operators | None = None
        configured: tuple[Route, ...] = ()
        if runtime is None:
            found = mounted_config(config)
            configured = found.routes
            self._has_operators = found.admin.mounted and bool(found.admin.keys)
            self._own = OwnRuntime(lambda: self._open(found, app_engine))
        self._routes = RouteTable(configured, routes)

    @property
    def runtime(self) -> Runtime | None:
        """What it works on; ``None`` while one of its own is not started."""
        return self._own.runtime if self._own is not None else self._runtime

    async def aclose(self) -> None:
        """End the runtime that it opened itself; the next metered request opens another.

        For servers that send no ``lifespan`` and whose event loop outlives the app. Cancelled: it
        ends all the same.
        """
        if self._own is not None:
            await self._own.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request.

        A metered one waits for its turn; a cancellation leaves nothing reserved or in line.
        """
        kind = scope["type"]
        if kind == "http" and SCOPE_KEY not in scope:
            if self._has_operators and _is_for_operators(scope):
                await self._operate(scope, receive, send)
                return
            route = self._routes.find(scope)
            if route is not None:
                await self._meter(route, scope, receive, send)
                return
            if self._own is not None and scope["path"].endswith(ME) and route_path(scope) == ME:
                await self._tell(scope, receive, send)
                return
        elif kind == "lifespan" and self._own is not None:
            await self._own.lifespan(self.app, scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def running(self) -> Runtime:
        """The runtime; its own is started where it does not run. Raises ``StoreError``."""
        if self._own is not None:
            return await self._own.get()
        assert self._runtime is not None  # noqa: S101 — one or the other
        return self._runtime

    async def _meter(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = self._runtime
        if runtime is None:
            assert self._own is not None  # noqa: S101 — one or the other
            runtime = self._own.running() or await self._started(scope, receive, send)
        if runtime is not None:
            await Exchange(self._terms, runtime, route, scope, receive, send).run()

    async def _tell(self, scope: Scope, receive: Receive, send: Send) -> None:
        runtime = await self._started(scope, receive, send)
        if runtime is None:
            return
        if self._me is None or self._me[0] is not runtime:
            self._me = runtime, Me(runtime, self._terms.authenticate)
        await self._me[1](scope, receive, send)

    async def _operate(self, scope: Scope, receive: Receive, send: Send) -> None:
        if await self._started(scope, receive, send) is not None:
            assert self._operators is not None  # noqa: S101 — they come with the runtime
            await self._operators(scope, receive, send)

    @asynccontextmanager
    async def _open(
        self, config: Config, app_engine: AppEngineFactory | None
    ) -> AsyncIterator[Runtime]:
        """A runtime, and what its operators see of it."""
        async with Runtime.open(config, app_engine=app_engine) as runtime:
            if not self._has_operators:
                yield runtime
                return
            operators = Operators(runtime)
            async with operators.observer.running():
                self._operators = operators
                yield runtime

    async def _started(self, scope: Scope, receive: Receive, send: Send) -> Runtime | None:
        """The runtime; ``None`` when it does not start, and the request is refused."""
        try:
            return await self.running()
        except FairgateError as error:
            log.error("fairgate did not start", error=str(error))
            refusal = Unavailable(
                "fairgate could not start", code="store_unavailable", retry_after=5
            )
            sent = dict(scope["headers"]).get(headers.REQUEST_ID)
            await self._terms.refuser.answer(
                refusal, scope, receive, send, request_id=headers.request_id(sent)
            )
            return None


def _is_for_operators(scope: Scope) -> bool:
    """Its path is below theirs, and not the one that is for tenants."""
    if _FOR_OPERATORS not in scope["path"]:
        return False
    path = route_path(scope)
    return path.startswith(_FOR_OPERATORS) and path != ME
