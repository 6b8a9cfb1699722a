"""How a request reaches an engine, and how its answer comes back, whatever lies between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from fairgate.pipe import Put


class Answer(Protocol):
    """An engine's answer that has begun. Whoever holds it must :meth:`close` it."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """As the engine sent them."""

    @property
    def complete(self) -> bool:
        """All of it was taken."""

    async def read(self) -> bytes:
        """All that is left of it. Raises ``EngineError`` when the engine breaks off."""

    async def part(self, put: Put | None = None) -> bytes:
        """The next bytes, as soon as there are some; empty at its end. Raises ``EngineError``.

        Bytes that come while this waits may go to ``put`` instead, as long as it takes them, but
        for the last of the answer; what it raises is raised here. Who does not ask for the next
        ones slows the engine. Cancelled: no bytes are lost.
        """

    def limit_time(self, *, idle_s: float, total_s: float) -> None:
        """From here on ``idle_s`` seconds without a byte are an ``EngineError``, and ``total_s``
        seconds without the end."""

    def close(self) -> None:
        """Done with it: an engine that is not finished is told to stop working. Idempotent."""


class Transport(Protocol):
    """Carries requests to one engine."""

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a request and wait for its answer to begin.

        Raises ``EngineUnreachable`` when the engine did not take it, ``EngineError`` when it broke
        off. Cancelled: the engine is told that nobody waits any more.
        """
