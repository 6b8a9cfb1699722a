"""The middleware: the door between clients and the app that serves them."""

from __future__ import annotations

import random

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from fairgate import codec, headers
from fairgate.engines.build import AppEngineFactory
from fairgate.errors import FairgateError, Unavailable
from fairgate.exchange import Authenticate, Exchange, Terms
from fairgate.mounting import ConfigSource, OwnRuntime, mounted_config
from fairgate.runtime import Runtime

log = structlog.get_logger("fairgate.mounting")


class FairGate:
    """Pure-ASGI middleware that admits LLM requests fairly; all else passes untouched.

    It works on the ``runtime`` that it is given, or opens one of its own from ``config``: a
    :class:`Config`, what a configuration file holds as a mapping, or the path of one; by default
    one lane, one tenant who needs no key and the embedded store. Its own starts with the app, on
    the ``lifespan`` scope, or with the first metered request where the server sends none; it ends
    with the app, with :meth:`aclose`, or with the event loop.

    ``authenticate`` tells from the scope who sends a request, instead of API keys; it may be
    ``async``, and raises ``Unauthenticated`` or ``Forbidden`` to refuse. ``app_engine`` makes the
    engines of ``type: app``; without it their capacity is what the configuration says.

    Raises ``ConfigError`` for a configuration that is wrong, with every problem found.
    """

    def __init__(
        self,
        app: ASGIApp,
        runtime: Runtime | None = None,
        *,
        config: ConfigSource | None = None,
        authenticate: Authenticate | None = None,
        app_engine: AppEngineFactory | None = None,
    ) -> None:
        self.app = app
        self.rng = random.Random()  # noqa: S311 — jitter of Retry-After
        self._terms = Terms(app, authenticate, self.rng)
        self._own: OwnRuntime | None = None
        self._runtime = runtime
        if runtime is None:
            found = mounted_config(config)
            self._own = OwnRuntime(lambda: Runtime.open(found, app_engine=app_engine))
        elif config is not None or app_engine is not None:
            raise TypeError("FairGate: expected runtime or config and app_engine, got both")

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
        if scope["type"] == "lifespan" and self._own is not None:
            await self._own.lifespan(self.app, scope, receive, send)
        elif _is_metered(scope):
            await self._admit(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def running(self) -> Runtime:
        """The runtime; its own is started where it does not run. Raises ``StoreError``."""
        if self._own is not None:
            return await self._own.get()
        assert self._runtime is not None  # noqa: S101 — one or the other
        return self._runtime

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            runtime = await self.running()
        except FairgateError as error:
            await self._not_started(error, scope, send)
        else:
            await Exchange(self._terms, runtime, scope, receive, send).run()

    async def _not_started(self, error: FairgateError, scope: Scope, send: Send) -> None:
        log.error("fairgate did not start", error=str(error))
        fields = dict(scope["headers"])
        answer = headers.error_response(
            Unavailable("fairgate could not start", code="store_unavailable", retry_after=5),
            request_id=headers.request_id(fields.get(headers.REQUEST_ID)),
            rng=self.rng,
            accept=fields.get(b"accept", b""),
        )
        await headers.send_whole(answer, send)


def _is_metered(scope: Scope) -> bool:
    return scope["type"] == "http" and scope["path"] in codec.ROUTES and scope["method"] == "POST"
