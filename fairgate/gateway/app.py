"""The gateway as an ASGI app: the OpenAI routes behind the middleware, health, metrics, tenants'
own view, models."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator

import orjson
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fairgate import headers
from fairgate.codec import ROUTES
from fairgate.config.rules import AUTO_MODEL
from fairgate.errors import NotFound, Refusal
from fairgate.gateway import openapi
from fairgate.gateway.feedback import PATH as FEEDBACK
from fairgate.gateway.feedback import Feedback
from fairgate.gateway.forward import Forwarder
from fairgate.identity import by_key
from fairgate.me.app import PATH as ME
from fairgate.me.app import Me
from fairgate.middleware import FairGate
from fairgate.operators import Operators, refused, refused_by_router
from fairgate.runtime import Runtime
from fairgate.ticket import SCOPE_KEY

Scrape = Callable[[Runtime], Awaitable[bytes]]
"""Makes the Prometheus text where it is of more than one process."""


class Gateway:
    """Builds the gateway's app over a running :class:`Runtime`."""

    def __init__(self, runtime: Runtime, *, scrape: Scrape | None = None) -> None:
        self._runtime = runtime
        self._scrape = scrape
        self._created = int(time.time())
        self._forwarder = Forwarder(runtime)
        self.operators = Operators(runtime)
        self._others = Starlette(
            routes=[
                *(Route(path, self._forwarder, methods=["POST"]) for path in ROUTES),
                Route("/v1/models", self.models),
                Route("/v1/models/{model:path}", self.model),
                Route(ME, Me(runtime)),
                Route(FEEDBACK, Feedback(runtime)),
                Route("/healthz", self.healthz),
                Route("/readyz", self.readyz),
                Route("/metrics", self.metrics),
                Route(openapi.PATH, self.openapi),
                *(self.operators.routes() if runtime.config.admin.port is None else ()),
            ],
            exception_handlers={Refusal: self._refuse, HTTPException: self._refuse_http},
        )
        self._others.router.redirect_slashes = False  # to whatever host the client names
        self.app = FairGate(self._dispatch, runtime)

    def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Admitted requests go straight to their engine; the router serves what is left."""
        app = self._forwarder if SCOPE_KEY in scope else self._others
        return app(scope, receive, send)

    async def models(self, request: Request) -> Response:
        """The lanes as models, and ``auto``."""
        by_key(request.scope, self._runtime.identity, self._runtime.failed_keys)
        data = [self._describe(name) for name in self._model_names()]
        return self._json(request, {"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """One model."""
        by_key(request.scope, self._runtime.identity, self._runtime.failed_keys)
        name = request.path_params["model"]
        if name != AUTO_MODEL and not any(p.serves(name) for p in self._runtime.pools.values()):
            shown = repr(name)[:80]
            raise NotFound(f"the model {shown} does not exist", code="model_not_found")
        return self._json(request, self._describe(name))

    def _model_names(self) -> Iterator[str]:
        for pool in self._runtime.pools.values():
            yield from pool.lanes
        yield AUTO_MODEL

    def _describe(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "fairgate"}

    async def healthz(self, request: Request) -> Response:
        """The process runs."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """Every lane has an engine that is up, the store that decides is there, and the gateway is
        not draining."""
        if self._runtime.draining:
            return PlainTextResponse("draining\n", 503)
        if self._runtime.shut():
            return PlainTextResponse("the store is away\n", 503)
        if missing := self._runtime.closed_lanes():
            return PlainTextResponse(f"no engine is up in: {', '.join(missing)}\n", 503)
        return PlainTextResponse("ready\n")

    async def metrics(self, request: Request) -> Response:
        """Prometheus text, for those who may see what all tenants use."""
        if not self._runtime.addresses.may_scrape(request.scope):
            raise NotFound("no such route: /metrics")
        if self._scrape is not None:
            text = await self._scrape(self._runtime)
        else:
            text = self._runtime.metrics.render(self._runtime.pools)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    async def openapi(self, request: Request) -> Response:
        """The description of all this."""
        text = openapi.text(self._runtime.config.max_choices)
        return Response(text, media_type="application/json")

    def _json(self, request: Request, content: object) -> Response:
        sent = headers.request_id(request.headers.get("x-request-id", "").encode("latin-1"))
        return Response(
            orjson.dumps(content), media_type="application/json", headers={"x-request-id": sent}
        )

    async def _refuse(self, request: Request, refusal: Exception) -> Response:
        assert isinstance(refusal, Refusal)  # noqa: S101 — registered for these only
        return refused(request, refusal, self.app.rng)

    async def _refuse_http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 — registered for these only
        return refused_by_router(request, error, self.app.rng)
