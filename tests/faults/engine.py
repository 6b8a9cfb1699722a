"""``python -m tests.faults.engine``: a simulated engine that watches what it is given.

Each request that begins or ends is a line of ``--events``: monotonic seconds, a sign, the request's
name, which its prompt says. ``+`` began, ``=`` was served to its end, ``-`` was not; ``!`` says
that with it more ran than ``--max-num-seqs``, counting only those whose client is still connected
at that moment.

``POST /faults?kind=status=503&share=0.5`` has every second request from now on spoiled, by the
simulated engine's own faults; an empty kind ends that. ``POST /disown`` says that a gateway
stopped: when its lease ends it cannot hang up on what hangs here, so what runs now does not count.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import time
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import parse_qs

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fairgate.engines.simulated.faults import HEADER
from fairgate.engines.simulated.server import create_app
from fairgate.engines.simulated.service import Settings

NAME = re.compile(rb"\((q[0-9.]+)\)")
NAMELESS = "-"
"""A request that is none of the load's, such as one of a hostile client."""


class Watched:
    """The engine's app, with a count of what runs in it."""

    def __init__(self, app: ASGIApp, max_num_seqs: int, events: TextIO) -> None:
        self._app = app
        self._max_num_seqs = max_num_seqs
        self._events = events
        self._running: set[_Answer] = set()
        self._disowned: set[_Answer] = set()
        self._kind = ""
        self._share = 1.0
        self._due = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif scope["path"] == "/faults":
            self._switch(scope)
            await _done(send)
        elif scope["path"] == "/disown":
            self._disowned = set(self._running)
            await _done(send)
        else:
            await self._serve(scope, receive, send)

    def _switch(self, scope: Scope) -> None:
        asked = parse_qs(scope["query_string"].decode())
        self._kind = asked.get("kind", [""])[0]
        self._share = float(asked.get("share", ["1"])[0])
        self._due = 0.0

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        found = NAME.search(body)
        name = found[1].decode() if found else NAMELESS
        answer = _Answer(send, self._running)
        self._note("+", name)
        if len(self._running) > self._max_num_seqs and self._connected() > self._max_num_seqs:
            self._note("!", name)
        try:
            await self._app(self._spoiled(scope), _Replayed(body, receive), answer.send)
        finally:
            self._note("=" if answer.served else "-", name)
            self._running.discard(answer)

    def _spoiled(self, scope: Scope) -> Scope:
        if not self._kind:
            return scope
        self._due += self._share
        if self._due < 1:
            return scope
        self._due -= 1
        return {**scope, "headers": [*scope["headers"], (HEADER, self._kind.encode())]}

    def _connected(self) -> int:
        return sum(answer.is_connected() for answer in self._running - self._disowned)

    def _note(self, sign: str, name: str) -> None:
        self._events.write(f"{time.monotonic():.6f} {sign} {name}\n")


async def _done(send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


class _Replayed:
    """A ``receive`` that begins with the body that was read already."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            return await self._receive()
        return {"type": "http.request", "body": body, "more_body": False}


class _Answer:
    """An answer under way; among those that ``running`` until its end is sent."""

    def __init__(self, send: Any, running: set[_Answer]) -> None:
        self.transport = send.__self__.transport  # uvicorn's; the simulated faults look for it, too
        self._send: Send = send
        self._running = running
        self._well = False
        running.add(self)

    @property
    def served(self) -> bool:
        """It came to its end, and was no error."""
        return self._well and self not in self._running

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._well = message["status"] < 400
        # Whoever forwards the answer may give the capacity on as soon as it has the end of it.
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._running.discard(self)
        await self._send(message)

    def is_connected(self) -> bool:
        """The other side has not hung up, whether or not this process has been told so yet."""
        try:
            descriptor = self.transport.get_extra_info("socket").fileno()
            with socket.socket(fileno=os.dup(descriptor)) as copy:
                return copy.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.engine", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-num-seqs", type=int, required=True)
    parser.add_argument("--kv-cache-tokens", type=int, required=True)
    parser.add_argument("--events", type=Path, required=True)
    options = parser.parse_args()
    settings = Settings(
        model=options.model, max_num_seqs=options.max_num_seqs,
        kv_cache_tokens=options.kv_cache_tokens, faults=True,
    )  # fmt: skip
    with options.events.open("a", buffering=1) as events:
        watched = Watched(create_app(settings), options.max_num_seqs, events)
        uvicorn.run(
            watched, host="127.0.0.1", port=options.port, access_log=False, proxy_headers=False,
            timeout_graceful_shutdown=2, backlog=4096,
        )  # fmt: skip


if __name__ == "__main__":
    main()
