"""The apps that are measured, for uvicorn; what they need is in the environment."""

from __future__ import annotations

import os

import aiohttp
from starlette.types import Receive, Scope, Send

from fairgate import FairGate

ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"bench","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"Forty-two."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":110,"completion_tokens":4,"total_tokens":114}}'
)
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(ANSWER)).encode()),
]


async def null(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body and answers at once."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


gated = (
    FairGate(null, config=os.environ["FAIRGATE_CONFIG"])
    if "FAIRGATE_CONFIG" in os.environ
    else null
)


class BareProxy:
    """The least that a pure-ASGI proxy can do: no keys, no limits, no look at the answer."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
            )
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        url = os.environ["UPSTREAM"] + scope["path"]
        async with self._session.post(url, data=body, headers=_JSON) as response:
            sent = [(name.lower(), value) for name, value in response.raw_headers]
            await send({"type": "http.response.start", "status": response.status, "headers": sent})
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


_JSON = {"content-type": "application/json"}
proxy = BareProxy()
