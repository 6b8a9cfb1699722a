"""What every engine is to the rest of fairgate: a name, a way to send it requests, and a status.

However an engine comes to be (somebody else's server, a process that fairgate spawns, an app in our
own process), requests reach it by its :attr:`Engine.transport`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fairgate.engines.transport import Transport


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """One observation of an engine. ``None``: the engine does not tell."""

    up: bool
    detail: str = ""
    """Why it is not up, in words for a log line."""
    models: tuple[str, ...] = ()
    """Model names that it lists under ``/v1/models``."""
    context_tokens: int | None = None
    """``max_model_len`` of the first model."""
    max_num_seqs: int | None = None
    kv_cache_tokens: int | None = None
    num_requests_running: int | None = None
    num_requests_waiting: int | None = None
    kv_cache_usage: float | None = None
    """Share of the KV cache in use, 0 to 1."""


class Engine(Protocol):
    """One vLLM instance, any OpenAI-compatible server, or the simulated engine."""

    @property
    def name(self) -> str:
        """Unique within its lane; the same on every replica of the gateway."""

    @property
    def transport(self) -> Transport | None:
        """How the gateway's requests reach it; the same one across restarts.

        ``None``: what runs the model is not reached through the gateway.
        """

    @property
    def priority(self) -> bool:
        """It schedules by priority, so requests may carry one."""

    @property
    def cache_salt(self) -> bool:
        """It takes vLLM's ``cache_salt``, which keeps what it caches for tenants apart."""

    async def start(self) -> None:
        """Bring it up and return when it answers; at once for engines that others run.

        Raises ``EngineStartError`` when it cannot come up. Cancelled: whatever was started is
        stopped before the cancellation goes on.
        """

    async def probe(self) -> EngineStatus:
        """Ask it how it is. Never raises for an engine that is down; bounded by a few seconds."""

    async def stop(self) -> None:
        """End what :meth:`start` started: SIGTERM, after a grace period SIGKILL. Idempotent."""
