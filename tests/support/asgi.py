"""An ASGI server in memory, for what real servers do not show: spec versions and extensions."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from support.gateway import bearer, chat

CHAT = "/v1/chat/completions"


class Client:
    """One connection. ``leave`` ends it, as the given version of the spec says."""

    def __init__(self, *, spec: str = "2.3", parts: list[bytes] | None = None) -> None:
        self.spec = spec
        self.sent: list[Message] = []
        self._gone = asyncio.Event()
        self._parts = deque([json.dumps(chat()).encode()] if parts is None else parts)

    async def receive(self) -> Message:
        if self._parts:
            part = self._parts.popleft()
            return {"type": "http.request", "body": part, "more_body": bool(self._parts)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._gone.is_set() and self.spec >= "2.4":
            raise OSError("the client is gone")
        if not self._gone.is_set():
            self.sent.append(message)

    def leave(self) -> None:
        self._gone.set()

    def scope(self, path: str = CHAT, method: str = "POST", **more: Any) -> Scope:
        headers = [[name.encode(), value.encode()] for name, value in bearer().items()]
        asgi = {"version": "3.0"} if self.spec == "2.0" else {"version": "3.0", "spec_version": ""}
        if "spec_version" in asgi:
            asgi["spec_version"] = self.spec
        scope = {"type": "http", "asgi": asgi, "method": method, "path": path, "headers": headers}
        return {**scope, **more}

    async def ask(self, app: ASGIApp, path: str = CHAT, method: str = "POST", **more: Any) -> Any:
        """The whole request; returns the messages sent."""
        await app(self.scope(path, method, **more), self.receive, self.send)
        return self.sent

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    def json(self) -> Any:
        return json.loads(self.body)
