"""ASGI middleware that tells the client what the app behind it was asked."""

from __future__ import annotations

import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Seen:
    """Adds ``x-seen-priority``: that of the body, or ``none``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        priority = "none"

        async def received() -> Message:
            nonlocal priority
            message = await receive()
            if message.get("body"):
                priority = str(json.loads(message["body"]).get("priority", "none"))
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                header = (b"x-seen-priority", priority.encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        await self._app(scope, received, sent)
