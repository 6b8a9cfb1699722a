"""A real gateway in the test's own loop whose ledger's clock runs fast: minutes pass in seconds."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
import yaml
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fairgate.config.reading import loads
from fairgate.engines.process import free_port
from fairgate.gateway.app import Gateway
from fairgate.runtime import Runtime

_HEARTBEAT_S = 3600  # leases are told in the ledger's time: they must outlast the test


@dataclass(frozen=True)
class Seen:
    """One request as it reached the gateway, and what became of it."""

    at: float
    """Seconds of the ledger's clock when it came; ``ended``: when its answer began."""
    ended: float
    status: int
    content: str
    """Of its first message."""
    interaction: str
    retry_after: str | None


@dataclass
class FastGateway:
    """``seen``: the chat requests so far, in the order of their answers."""

    url: str
    clock: Callable[[], float]
    seen: list[Seen] = field(default_factory=list)

    def statuses(self, content: str = "") -> list[int]:
        return [s.status for s in self.seen if not content or s.content == content]


class _Recorder:
    """Notes what comes and how it is answered; changes nothing."""

    def __init__(self, app: ASGIApp, gate: FastGateway) -> None:
        self.app = app
        self.gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        at, body = self.gate.clock(), bytearray()

        async def watched() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["method"] == "POST":
                told = {n.decode(): v.decode() for n, v in message["headers"]}
                sent = {n.decode(): v.decode() for n, v in scope["headers"]}
                content = json.loads(body)["messages"][0]["content"]
                interaction = sent.get("x-fairgate-interaction", "")
                status, wait = message["status"], told.get("retry-after")
                now = self.gate.clock()
                self.gate.seen.append(Seen(at, now, status, content, interaction, wait))
            await send(message)

        await self.app(scope, watched, noted)


@asynccontextmanager
async def fast_gateway(settings: Mapping[str, Any], speed: float) -> AsyncIterator[FastGateway]:
    """A gateway that serves ``settings``; its ledger's clock runs ``speed`` times as fast."""
    slow_beat = {**settings, "store": {**settings["store"], "heartbeat_s": _HEARTBEAT_S}}
    began = time.time()
    port = free_port()
    gate = FastGateway(f"http://127.0.0.1:{port}", lambda: began + (time.time() - began) * speed)
    async with Runtime.open(loads(yaml.safe_dump(slow_beat), source="test")) as runtime:
        for pool in runtime.pools.values():
            pool.ledger._clock = gate.clock
        app = _Recorder(Gateway(runtime).app, gate)
        server = uvicorn.Server(
            uvicorn.Config(app, port=port, lifespan="off", log_config=None, ws="none")
        )
        serving = asyncio.create_task(server.serve())
        while not server.started:
            assert not serving.done(), "it does not listen"
            await asyncio.sleep(0.01)
        try:
            yield gate
        finally:
            server.should_exit = True
            await serving
