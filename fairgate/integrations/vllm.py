"""FairGate inside vLLM's own server: fairness without a gateway before it.

``python -m vllm.entrypoints.openai.api_server … --middleware fairgate.integrations.vllm.FairGate``
with ``FAIRGATE_CONFIG`` naming a configuration file; see ``docs/vllm-server.md``.
"""

from __future__ import annotations

import os
from typing import Any

import structlog
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fairgate import config, middleware
from fairgate.engines.base import EngineStatus
from fairgate.engines.vllm_stats import EngineStats
from fairgate.errors import ConfigError
from fairgate.headers import REQUEST_ID
from fairgate.identity import Principal
from fairgate.integrations.vllm_routes import byte_cost, vllm_route
from fairgate.integrations.vllm_settings import server_config
from fairgate.runtime import EMBEDDED
from fairgate.ticket import SCOPE_KEY, Ticket

METRICS_PATH = "/fairgate/metrics"

_PRIORITY_HEADER = b"x-vllm-priority"
_LENGTH = b"content-length"
_REPLACED = frozenset({_LENGTH, _PRIORITY_HEADER, REQUEST_ID})

log = structlog.get_logger("fairgate.vllm")


class FairGate:
    """The middleware as vLLM takes it: made of the app alone, settings from the environment.

    It is set up when the server starts, once its engine is known. What is wrong with the
    configuration ends the start, with a message.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._entry: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request, or the server's start and end.

        Raises ``ConfigError`` with a server that sends no ``lifespan``.
        """
        if self._entry is None:
            try:
                self._entry = self._set_up(scope["app"].state)
            except ConfigError as error:
                if scope["type"] != "lifespan":
                    raise
                await send({"type": "lifespan.startup.failed", "message": f"fairgate: {error}"})
                return
        await self._entry(scope, receive, send)

    def _set_up(self, state: Any) -> ASGIApp:
        """What stands before ``self._app``; ``state`` is that of vLLM's app."""
        settings = server_config(state.args)
        _check_store(settings, state.engine_client)
        server = _Server(self._app, EngineStats(state.engine_client), settings)
        tokens = [key for key in (state.args.api_key or [os.environ.get("VLLM_API_KEY")]) if key]
        if not tokens:
            return server
        from vllm.entrypoints.serve.middleware.authenticate import AuthenticationMiddleware

        # vLLM puts middleware before its own: without this, who has no key of its could wait in
        # line, and be refused only after that. Its own check stays behind us.
        checked: ASGIApp = AuthenticationMiddleware(server, tokens)
        return checked


def _check_store(settings: config.Config, client: Any) -> None:
    if settings.store.url == EMBEDDED and getattr(client, "_client_count", 1) > 1:
        problem = "store.url: several API servers (--api-server-count) need a store that they share"
        raise ConfigError([problem])


class _Server:
    """The gate before one vLLM server."""

    def __init__(self, app: ASGIApp, stats: EngineStats, settings: config.Config) -> None:
        self._gate = middleware.FairGate(
            _ToVllm(app, priority=stats.priority),
            config=settings,
            authenticate=self._principal,
            routes=vllm_route,
            cost=byte_cost,
            app_engine=lambda name, _: _ServerEngine(name, stats),
        )
        (pool,) = settings.pools.values()
        log.info("fairgate is in", lane=next(iter(pool.lanes)), priority=stats.priority)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == METRICS_PATH:
            await self._metrics()(scope, receive, send)
        else:
            await self._gate(scope, receive, send)

    def _principal(self, scope: Scope) -> Principal:
        """By the key in ``x-api-key``, where there is one: then ``Authorization`` is vLLM's."""
        runtime, sent = self._gate.runtime, scope["headers"]
        assert runtime is not None  # noqa: S101 — it runs before it asks
        if any(name == b"x-api-key" for name, _ in sent):
            sent = [header for header in sent if header[0] != b"authorization"]
        return runtime.identity.identify(sent)

    def _metrics(self) -> Response:
        runtime = self._gate.runtime
        text = runtime.metrics.render(runtime.pools) if runtime is not None else b""
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


class _ServerEngine:
    """The engine behind this server, by its own statistics; see ``Engine``."""

    def __init__(self, name: str, stats: EngineStats) -> None:
        self._name = name
        self._stats = stats

    @property
    def name(self) -> str:
        return self._name

    @property
    def transport(self) -> None:
        return None

    @property
    def priority(self) -> bool:
        return self._stats.priority

    @property
    def cache_salt(self) -> bool:
        return True

    async def start(self) -> None:
        """The server started it."""

    async def probe(self) -> EngineStatus:
        return await self._stats.status()

    async def stop(self) -> None:
        """The server stops it."""


class _ToVllm:
    """Hands a granted request to vLLM: with the ledger's priority, and asking for its usage."""

    def __init__(self, app: ASGIApp, *, priority: bool) -> None:
        self._app = app
        self._priority = priority

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ticket: Ticket | None = scope.get(SCOPE_KEY)
        grant = ticket.grant if ticket is not None else None
        if ticket is None or grant is None or ticket.meter.call is None:
            await self._app(scope, receive, send)
            return
        body = ticket.engine_body(
            priority=grant.priority if self._priority else None,
            cache_salt=ticket.principal.cache_salt,
        )
        await self._app(_with_ours(scope, ticket, len(body)), _Replay(body, receive), send)


class _Replay:
    """``receive`` with another body first."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        await self._receive()  # the body as the client sent it, in one message
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def _with_ours(scope: Scope, ticket: Ticket, length: int) -> Scope:
    """Without the client's priority, with an id of ours; ``length`` is that of the new body."""
    kept = [header for header in scope["headers"] if header[0] not in _REPLACED]
    request_id = ticket.engine_request_id().encode()
    ours = [(_LENGTH, str(length).encode()), (REQUEST_ID, request_id)]
    return {**scope, "headers": [*kept, *ours]}
