"""An app that does as the header ``x-do`` says, behind FairGate: what the corner tests serve.

``GET /seen`` tells what it has seen. The configuration is the file that ``FAIRGATE_TEST_CONFIG``
names.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from fairgate import FairGate

TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
ANSWER = b'{"usage":{"prompt_tokens":5,"completion_tokens":7}}'
EVENTS = [(b"content-type", b"text/event-stream")]
JSON = [(b"content-type", b"application/json")]

outer_value = contextvars.ContextVar("outer_value", default="unset")
inner_value = contextvars.ContextVar("inner_value", default="unset")
seen: Counter[str] = Counter()
released = asyncio.Event()


def start(headers: list[tuple[bytes, bytes]], status: int = 200, **more: Any) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers, **more}


def body(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def answer(send: Send, content: bytes = ANSWER) -> None:
    await send(start([*JSON, (b"content-length", b"%d" % len(content))]))
    await send(body(content))


async def read(receive: Receive) -> tuple[int, bytes]:
    """Messages that the body came in, and the body."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            seen["disconnected while reading"] += 1
            return len(parts), b"".join(parts)
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return len(parts), b"".join(parts)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    messages, content = await read(receive)
    told = {"messages": messages, "bytes": len(content)}
    told["root_path"] = scope.get("root_path", "")  # type: ignore[assignment]
    await answer(send, json.dumps(told).encode())


async def hold(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer when told to."""
    await read(receive)
    seen["held"] += 1
    await released.wait()
    released.clear()
    await answer(send)


async def stream_on(scope: Scope, receive: Receive, send: Send) -> None:
    """Stream until the client leaves, however the server says so."""
    await read(receive)
    leaving = asyncio.ensure_future(receive())
    try:
        await send(start(EVENTS))
        while not leaving.done():
            await send(body(TOKEN, more=True))
            seen["tokens"] += 1
            await asyncio.sleep(0.01)
        seen[leaving.result()["type"]] += 1
    except OSError:
        seen["send raised"] += 1
        raise
    finally:
        leaving.cancel()


async def linger(scope: Scope, receive: Receive, send: Send) -> None:
    """Do something after the last byte, until the client is gone."""
    await read(receive)
    await answer(send)
    message = await receive()
    seen[f"after the end: {message['type']}"] += 1


async def raise_before(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError("before the start")


async def raise_after(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start(EVENTS))
    await send(body(TOKEN * 3, more=True))
    raise ValueError("after the start")


async def never_read(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send)


async def send_file(scope: Scope, receive: Receive, send: Send) -> None:
    """By path where the server can."""
    await read(receive)
    content = b"f" * 5000
    if "http.response.pathsend" not in (scope.get("extensions") or {}):
        await answer(send, content)
        return
    seen["pathsend"] += 1
    path = Path(tempfile.gettempdir()) / f"corner-{os.getpid()}"
    path.write_bytes(content)
    await send(start([(b"content-length", b"5000")]))
    await send({"type": "http.response.pathsend", "path": str(path)})


async def context(scope: Scope, receive: Receive, send: Send) -> None:
    inner_value.set("inner")
    await answer(send, json.dumps({"outer_value": outer_value.get()}).encode())


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """What an unmetered route shows."""
    if scope["path"].endswith("/release"):
        released.set()
    extra = {"metered": "fairgate" in scope, "root_path": scope.get("root_path", "")}
    await answer(send, json.dumps({**seen, **extra}).encode())


async def websocket(scope: Scope, receive: Receive, send: Send) -> None:
    seen["websocket untouched"] += "fairgate" not in scope
    await receive()
    await send({"type": "websocket.accept"})
    message = await receive()
    await send({"type": "websocket.send", "text": message["text"][::-1]})
    await send({"type": "websocket.close", "code": 1000})


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    if os.environ.get("CORNER_LIFESPAN") == "absent":
        raise NotImplementedError("this app knows no lifespan")
    while True:
        event = (await receive())["type"]
        print(f"app: {event}, fairgate runs: {gate.runtime is not None}", flush=True)
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


ACTIONS: dict[bytes, Callable[[Scope, Receive, Send], Awaitable[None]]] = {
    b"echo": echo, b"hold": hold, b"stream": stream_on, b"linger": linger,
    b"raise-before": raise_before, b"raise-after": raise_after, b"never-read": never_read,
    b"file": send_file, b"context": context, b"": tell,
}  # fmt: skip


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        await ACTIONS[dict(scope["headers"]).get(b"x-do", b"")](scope, receive, send)


gate = FairGate(inner, config=os.environ["FAIRGATE_TEST_CONFIG"])
twice = FairGate(gate, config=os.environ["FAIRGATE_TEST_CONFIG"])


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """A middleware outside ours that looks after the context."""
    outer_value.set("outer")
    await (twice if os.environ.get("CORNER_TWICE") else gate)(scope, receive, send)
    if inner_value.get() == "inner":
        seen["context came back"] += 1
