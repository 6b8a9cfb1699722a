"""The store, as seen from virtual time: every script call runs at once, on the virtual clock.

Calls go over one plain socket and wait for the answer, so no real time enters the event loop. What
a script publishes comes back on the same connection (RESP3) and is delivered with the call.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import hiredis

from fairgate.admission.link import Link
from fairgate.admission.scripts import Script, load_library
from fairgate.admission.words import Argument, Words
from fairgate.errors import StoreError

EPOCH_S = 1_700_000_040.0
"""The virtual clock's second 0: a full minute, where windows of rate limits begin."""

_PING: Final = hiredis.pack_command(("PING",))


class InstantLink(Link):
    """A :class:`Link` whose calls are answered when they return.

    ``clock`` gives virtual seconds; it becomes the scripts' clock override. ``path`` is the store's
    Unix socket, which must be used by nobody else: it is emptied.
    """

    def __init__(self, path: str, clock: Callable[[], float]) -> None:
        super().__init__(f"unix://{path}")
        self._clock = clock
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._parser = hiredis.Reader()
        self._listeners: dict[bytes, Callable[[str], None]] = {}
        self.calls = 0
        """Script calls so far."""
        self._run(("HELLO", "3"))
        self._run(("FLUSHALL",))
        self._run(("FUNCTION", "LOAD", "REPLACE", load_library().text))

    def listen(self, channel: str, hear: Callable[[str], None]) -> None:
        """Call ``hear`` with everything that scripts publish on ``channel`` from now on."""
        self._listeners[channel.encode()] = hear
        self._run(("SUBSCRIBE", channel), replies=0)

    def call_with(self, script: Script, words: Words) -> asyncio.Future[Any]:
        """Run a script; the future is done already."""
        self.calls += 1
        future = asyncio.get_running_loop().create_future()
        keys, (_, *args) = _unpacked(words)
        reply = self.run(script, keys, (self.now(), *args))
        if isinstance(reply, hiredis.ReplyError):
            future.set_exception(StoreError(f"store: {reply}"))
        else:
            future.set_result(reply)
        return future

    def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Argument]) -> Any:
        """Run a script with exactly these arguments; answers what it replies, errors too."""
        rest = (len(keys), *keys, *args)
        if script.function:
            return self._run(("FCALL", script.function, *rest))
        reply = self._run(("EVALSHA", script.sha, *rest))
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            reply = self._run(("EVAL", script.text, *rest))
        return reply

    def now(self) -> str:
        """The virtual clock as the scripts read it, in milliseconds."""
        return f"{(EPOCH_S + self._clock()) * 1000:.3f}"

    async def close(self) -> None:
        """Disconnect."""
        self._socket.close()

    def _run(self, command: tuple[Argument, ...], replies: int = 1) -> Any:
        # Behind the command goes a ping: whatever the command published has come before its answer.
        self._socket.sendall(_packed(command) + _PING)
        answer = None
        for reply in self._replies():
            if isinstance(reply, hiredis.PushNotification):
                self._deliver(reply)
            elif replies:
                answer, replies = reply, replies - 1
            else:
                return answer
        raise AssertionError("unreachable")

    def _replies(self) -> Iterator[Any]:
        while True:
            reply = self._parser.gets()
            if reply is not False:
                yield reply
                continue
            data = self._socket.recv(65536)
            if not data:
                raise StoreError("store: the embedded server went away")
            self._parser.feed(data)

    def _deliver(self, push: list[bytes]) -> None:
        if push[0] == b"message":
            self._listeners[push[1]](push[2].decode())


def _packed(command: tuple[Argument, ...]) -> bytes:
    pack: Callable[[tuple[Argument, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]
    return pack(command)


def _unpacked(words: Words) -> tuple[list[bytes], list[bytes]]:
    """Its keys, and its arguments."""
    reader = hiredis.Reader()
    reader.feed(b"*%d\r\n" % words.total + words.packed)
    every: list[bytes] = reader.gets()
    return every[: words.keys], every[words.keys :]
