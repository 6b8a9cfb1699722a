"""The client's side of one request: its body, and whether it is still there.

ASGI allows one reader of ``receive`` at a time, so all who want to know something from the client
go through one :class:`Inbox`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType

from starlette.types import Message, Receive

from fairgate.errors import BadRequest, BodyTooLarge
from fairgate.within import Deadlines, Within, was_the_only_cause

_SOON_S = 0.05
_DROPPED_BYTES = 1 << 20
_DROPPING_S = 1.0


class ClientGone(Exception):
    """The client closed the connection."""


class Inbox:
    """Reads the body once, then listens for the disconnect; replays the body to an inner app.

    As a context manager it guards a block against the client's leaving.
    """

    def __init__(self, receive: Receive, deadlines: Deadlines) -> None:
        self._receive = receive
        self._deadlines = deadlines
        self._soon = deadlines.of(_SOON_S)
        self._listener: asyncio.Task[Message] | None = None
        self._replay: bytes | None = None
        self._guarded: asyncio.Task[object] | None = None
        self._cancelled = False
        """The guarded block was, because the client left."""
        self._gone = False

    @property
    def gone(self) -> bool:
        """The client is known to have left."""
        return self._gone

    def leave(self) -> None:
        """Sending to the client failed: it has left."""
        self._gone = True

    async def read_body(self, *, limit: int, timeout_s: float, declared: int | None) -> bytes:
        """The whole body.

        Raises :class:`BodyTooLarge` over ``limit`` bytes (at once if the client declares more),
        :class:`BadRequest` if it takes longer than ``timeout_s``, :class:`ClientGone`.
        """
        if declared is not None and declared > limit:
            raise _too_large(limit)
        try:
            with Within(self._deadlines.of(timeout_s)):
                return await self._collect(limit)
        except TimeoutError:
            message = f"the body did not arrive within {timeout_s:g} s"
            raise BadRequest(message, code="body_timeout") from None

    async def _collect(self, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit:
                if message.get("more_body", False):
                    await self._drop_rest()
                raise _too_large(limit)
            if not message.get("more_body", False):
                return b"".join((*parts, part)) if parts else part
            parts.append(part)

    async def _drop_rest(self) -> None:
        """Read on a little: a client that is still sending may never see an answer that comes with
        the end of the connection (RFC 9112, section 9.6)."""
        left = _DROPPED_BYTES
        with suppress(TimeoutError), Within(self._deadlines.of(_DROPPING_S)):
            while left > 0:
                message = await self._receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return

    def replay(self, body: bytes) -> None:
        """Let :meth:`receive` begin with ``body``."""
        self._replay = body

    async def receive(self) -> Message:
        """For an inner app: the body in one message, then whatever the client does."""
        if self._replay is not None:
            body, self._replay = self._replay, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await asyncio.shield(self._listen())

    def _listen(self) -> asyncio.Task[Message]:
        """The one reader of the client's next message, shared by all who wait for it."""
        if self._listener is None:
            self._listener = asyncio.ensure_future(self._receive())
            self._listener.add_done_callback(self._heard)
        return self._listener

    def _heard(self, listener: asyncio.Task[Message]) -> None:
        if listener.cancelled():
            return
        if listener.exception() is None and listener.result()["type"] != "http.disconnect":
            self._listener = None
            if self._guarded is not None:
                self._listen()
            return
        self._gone = True
        if self._guarded is not None:
            self._cancelled = True
            self._guarded.cancel()

    def __enter__(self) -> None:
        """Run the block until the client leaves; then cancel it and raise :class:`ClientGone`.

        Blocks of one request follow each other and do not nest. Whether the client leaves is looked
        at once a block has lasted a little: most are over before, and need no reader.
        """
        if self._gone:
            raise ClientGone
        self._guarded = asyncio.current_task(self._soon.loop)
        self._soon.start(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        task, self._guarded = self._guarded, None
        self._soon.stop(self)
        if not self._cancelled:
            return
        self._cancelled = False
        if was_the_only_cause(task) and kind is asyncio.CancelledError:
            raise ClientGone from None

    def late(self) -> None:
        """The block lasts."""
        self._listen()

    def close(self) -> None:
        """Stop listening. The request is over."""
        if self._listener is not None:
            self._listener.cancel()


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes (server.max_body_bytes)")
