"""What only admin keys open, as one ASGI app: JSON of the pools, the admin API, the pages."""

from __future__ import annotations

import random

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.types import Receive, Scope, Send

from fairgate import headers
from fairgate.admin.access import Access
from fairgate.admin.app import AdminApi
from fairgate.admin.calls import PREFIX as ADMIN
from fairgate.dashboard.app import PATH as DASHBOARD
from fairgate.dashboard.app import Dashboard
from fairgate.errors import MethodNotAllowed, NotFound, Refusal
from fairgate.inspection.observer import Observer
from fairgate.inspection.routes import Inspection
from fairgate.runtime import Runtime


class Operators:
    """Of one runtime, everything below :data:`~fairgate.dashboard.app.PATH`.

    The pools are looked at while :attr:`observer` runs.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.observer = Observer(runtime)
        self._access = Access(runtime)
        self._admin = AdminApi(runtime, self._access)
        self._rng = random.Random()  # noqa: S311 — jitter of Retry-After
        self._app = Starlette(
            routes=self.routes(),
            exception_handlers={Refusal: self._refuse, HTTPException: self._refuse_http},
        )
        self._app.router.redirect_slashes = False  # to whatever host the client names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._app(scope, receive, send)

    def routes(self) -> list[BaseRoute]:
        """For a router that answers refusals itself."""
        return [
            *Inspection(self.observer, self._access).routes(),
            Mount(ADMIN, self._admin.app),
            Mount(DASHBOARD, Dashboard(self.observer, self._access)),
        ]

    async def _refuse(self, request: Request, refusal: Exception) -> Response:
        assert isinstance(refusal, Refusal)  # noqa: S101 — registered for these only
        return refused(request, refusal, self._rng)

    async def _refuse_http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 — registered for these only
        return refused_by_router(request, error, self._rng)


def refused(request: Request, refusal: Refusal, rng: random.Random) -> Response:
    """The answer to a request that is refused; ``rng`` draws the jitter of ``Retry-After``."""
    sent = request.headers.get("x-request-id", "").encode("latin-1")
    answer = headers.error_response(
        refusal,
        request_id=headers.request_id(sent),
        rng=rng,
        accept=request.headers.get("accept", "").encode("latin-1"),
    )
    response = Response(answer.body, answer.status)
    response.raw_headers = answer.headers
    return response


def refused_by_router(request: Request, error: HTTPException, rng: random.Random) -> Response:
    """The same for a path or method that is not there."""
    shown = request.url.path[:200]
    refusal: Refusal = NotFound(f"no such route: {shown}")
    if error.status_code == 405:
        refusal = MethodNotAllowed(f"{request.method} is not allowed on {shown}")
    response = refused(request, refusal, rng)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response
