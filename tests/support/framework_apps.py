"""The same small LLM endpoint in four frameworks, each behind FairGate; run by an ASGI server.

The configuration is the file that ``FAIRGATE_TEST_CONFIG`` names.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from fairgate import FairGate, Usage

CONFIG = os.environ.get("FAIRGATE_TEST_CONFIG", "")
PATH = "/v1/chat/completions"
TOKEN_S = 0.01


async def events(scope: Any, call: dict[str, Any]) -> AsyncIterator[bytes]:
    """``max_tokens`` events, the first of which names the tenant that FairGate found."""
    ticket = scope["fairgate"]
    words = [ticket.principal.tenant, *["word"] * (call["max_tokens"] - 1)]
    for word in words:
        await asyncio.sleep(TOKEN_S)
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        event = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        yield b"data: " + json.dumps({**event, "choices": [choice]}).encode() + b"\n\n"
    ticket.report_usage(Usage(prompt_tokens=3, completion_tokens=len(words)))
    yield b"data: [DONE]\n\n"


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def chat(request: Request) -> StreamingResponse:
        call = await request.json()
        return StreamingResponse(events(request.scope, call), media_type="text/event-stream")

    app = Starlette(routes=[Route(PATH, chat, methods=["POST"])])
    app.add_middleware(FairGate, config=CONFIG)
    return app


def fastapi() -> Any:
    from fastapi import FastAPI, Request
    from fastapi.responses import StreamingResponse

    app = FastAPI()
    app.add_middleware(FairGate, config=CONFIG)

    @app.post(PATH)
    async def chat(call: dict[str, Any], request: Request) -> StreamingResponse:
        return StreamingResponse(events(request.scope, call), media_type="text/event-stream")

    return app


def litestar() -> Any:
    from litestar import Litestar, Request, post
    from litestar.response import Stream

    @post(PATH)
    async def chat(data: dict[str, Any], request: Request[Any, Any, Any]) -> Stream:
        return Stream(events(request.scope, data), media_type="text/event-stream")

    return FairGate(Litestar(route_handlers=[chat]), config=CONFIG)


def quart() -> Any:
    from quart import Quart, request

    app = Quart(__name__)

    @app.post(PATH)
    async def chat() -> Any:
        call = await request.get_json()
        return events(request.scope, call), 200, {"content-type": "text/event-stream"}

    app.asgi_app = FairGate(app.asgi_app, config=CONFIG)  # type: ignore[method-assign]
    return app
