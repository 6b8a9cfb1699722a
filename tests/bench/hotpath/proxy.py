"""The bare proxy, for uvicorn: the least that a pure-ASGI proxy can do. No keys, no limits, no look
at the answer."""

from __future__ import annotations

import os

import aiohttp
from starlette.types import Receive, Scope, Send


class BareProxy:
    """Passes every request on to ``$UPSTREAM``, and the answer back as it comes."""

    def __init__(self) -> None:
        self._upstream = os.environ["UPSTREAM"]
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
            )
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        url = self._upstream + scope["path"]
        async with self._session.post(url, data=b"".join(parts), headers=_JSON) as response:
            sent = [(n.lower(), v) for n, v in response.raw_headers if n.lower() not in _HOP]
            await send({"type": "http.response.start", "status": response.status, "headers": sent})
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


_JSON = {"content-type": "application/json"}
_HOP = {b"transfer-encoding", b"connection"}
proxy = BareProxy()
