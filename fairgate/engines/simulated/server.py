"""The ASGI application: vLLM's routes over the simulated engine."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from fairgate.engines.simulated.client import Client
from fairgate.engines.simulated.completions import chat, completions
from fairgate.engines.simulated.embeddings import embeddings
from fairgate.engines.simulated.faults import Faults
from fairgate.engines.simulated.loop import Aborted, EngineLoop
from fairgate.engines.simulated.metrics import Metrics
from fairgate.engines.simulated.protocol import ApiError
from fairgate.engines.simulated.responses import responses
from fairgate.engines.simulated.service import Service, Settings

Handler = Callable[[Service, Client], Awaitable[None]]

# The version whose answers are imitated, marked as not the real thing.
VERSION = "0.32.0+simulated"


class Endpoint:
    """One route: checks the key, counts the load, turns errors into answers."""

    def __init__(self, service: Service, handler: Handler) -> None:
        self._service = service
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Cancelled or disconnected: what it generated is aborted."""
        client = Client(scope, receive, send)
        if client.path.startswith("/v1") and not self._may_enter(client):
            await client.send_json({"error": "Unauthorized"}, 401)
            return
        counted = scope["method"] == "POST"
        self._service.load += counted
        try:
            await self._handler(self._service, client)
        except ApiError as error:
            await client.send_json(error.body, error.status)
        except Aborted:
            pass  # nobody is there to be answered
        finally:
            self._service.load -= counted

    def _may_enter(self, client: Client) -> bool:
        key = self._service.settings.api_key
        given = client.headers.get(b"authorization", b"")
        return key is None or hmac.compare_digest(given, b"Bearer " + key.encode())


def create_app(settings: Settings) -> ASGIApp:
    """The application for one engine. Raises ``ValueError`` for settings that make no sense."""
    scheduler = settings.scheduler()
    metrics = Metrics(scheduler, settings.model)
    engine = EngineLoop(scheduler, metrics)
    service = Service(settings, engine)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with engine.running():
            yield

    handlers: list[tuple[str, str, Handler]] = [
        ("POST", "/v1/chat/completions", chat),
        ("POST", "/v1/completions", completions),
        ("POST", "/v1/responses", responses),
        ("POST", "/v1/embeddings", embeddings),
        ("GET", "/v1/models", models),
        ("GET", "/version", version),
        ("GET", "/load", load),
        ("GET", "/health", _health(engine)),
        ("GET", "/metrics", _metrics(metrics)),
    ]
    router = Router(
        [Route(path, Endpoint(service, h), methods=[method]) for method, path, h in handlers],
        redirect_slashes=False,
        default=Endpoint(service, unknown),
        lifespan=lifespan,
    )
    return Faults(router) if settings.faults else router


async def models(service: Service, client: Client) -> None:
    """``GET /v1/models``."""
    model = {
        "id": service.settings.model,
        "object": "model",
        "created": service.started,
        "owned_by": "vllm",
        "root": service.settings.model,
        "parent": None,
        "max_model_len": service.context,
    }
    await client.send_json({"object": "list", "data": [model]})


async def version(_: Service, client: Client) -> None:
    """``GET /version``."""
    await client.send_json({"version": VERSION})


async def load(service: Service, client: Client) -> None:
    """``GET /load``: requests being answered, waiting ones included."""
    await client.send_json({"server_load": service.load})


async def unknown(_: Service, __: Client) -> None:
    """Any other path."""
    raise ApiError(404, "Not Found", type="Not Found")


def _health(engine: EngineLoop) -> Handler:
    async def health(_: Service, client: Client) -> None:
        await client.send_bytes(b"", b"application/json", 200 if engine.alive else 503)

    return health


def _metrics(metrics: Metrics) -> Handler:
    registry = CollectorRegistry()
    registry.register(metrics)

    async def expose(_: Service, client: Client) -> None:
        await client.send_bytes(generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4.encode())

    return expose
