"""The records that loadgen's parts hand to each other: trace requests, planned calls, outcomes.

Times are seconds. In a plan and in outcomes they count from the start of the replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msgspec import Struct


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace; ``at_s`` counts from the first request."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    session: str | None = None
    """Requests of one session come from one user."""
    app: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One LLM call that the replay will make."""

    index: int
    """Unique in the plan; seeds the prompt text."""
    tenant: str
    user: str | None
    app: str | None
    prompt_tokens: int
    output_tokens: int
    interaction: str | None = None
    number: int = 0
    """Position in its interaction."""
    calls: int = 1
    """Length of its interaction."""
    think_s: float = 0.0
    """Pause after the previous call of the interaction has ended."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Calls that follow each other: an interaction, or a single call.

    The first call is sent at ``start_s`` whatever happens to others; each further one after the
    previous one's end. A lost call ends the chain.
    """

    start_s: float
    calls: tuple[Call, ...]


Result = Literal["completed", "throttled", "error"]


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of one call.

    ``throttled`` is an answer 429; ``error`` everything else that is not a whole answer: other
    statuses, broken streams, timeouts, calls cut off when the replay ended.
    """

    tenant: str
    user: str | None
    app: str | None
    interaction: str | None
    number: int
    calls: int
    result: Result
    reason: str = ""
    """Machine-readable cause of a throttle or error, such as ``queue_timeout``; else empty."""
    status: int = 0
    """HTTP status of the last answer; 0 when there was none."""
    retries: int = 0
    wanted_prompt_tokens: int
    wanted_output_tokens: int
    prompt_tokens: int = 0
    """Delivered work: as reported by usage; for a broken stream its wanted prompt."""
    completion_tokens: int = 0
    """As reported by usage; for a broken stream the number of events that came."""
    intended_s: float
    """When it should have been sent: latencies count from here."""
    sent_s: float
    """When the first attempt was sent."""
    granted_s: float | None = None
    """When it left the target's line (``x-fairgate-queue-ms`` after the last attempt was sent)."""
    first_token_s: float | None = None
    end_s: float
    queue_s: float | None = None
    """As told by ``x-fairgate-queue-ms``."""
    lane: str | None = None
    engine: str | None = None
