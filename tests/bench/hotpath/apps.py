"""The app that answers at once, bare and behind FairGate, for uvicorn."""

from __future__ import annotations

import os

from starlette.types import Receive, Scope, Send

from fairgate import FairGate
from tests.bench.parts.answers import ANSWER

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
