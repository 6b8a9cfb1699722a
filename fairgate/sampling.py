"""Plans several answers to one request, of which the client gets one, or a second try elsewhere.

The engine writes all answers to a prompt in one request with ``n``, so they share its prefix. What
the engine is asked is a :class:`Draft`; how a plan is carried out is in
:mod:`fairgate.gateway.best_of`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from msgspec import DecodeError, Raw
from msgspec.json import Encoder, decode
from msgspec.structs import replace

from fairgate.codec import Call
from fairgate.config.sampling import BestOf, Cascade, LogProbability
from fairgate.errors import BadRequest
from fairgate.routing.text import prompt_text

_SAMPLES = b"x-fairgate-samples"
_ACCEPT_DELAY = b"x-fairgate-accept-delay"
_YES = frozenset((b"1", b"true", b"yes"))
_GREEDY = 1e-5
"""Below it vLLM samples nothing, so that all answers would be the same; it refuses such an n."""

_ASKS_FOR_LOGPROBS: Mapping[str, Raw] = {"chat": Raw(b"true"), "completions": Raw(b"0")}
"""How a route is asked for the log-probability of each token written, and no others."""

_encode = Encoder().encode


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client says about it in its headers."""

    samples: int | None = None
    """Answers to choose among; ``None``: not said."""
    accepts_delay: bool = False
    """A stream may begin as late as its answer is complete."""


def read_wishes(headers: Iterable[tuple[bytes, bytes]], best_of: BestOf | None) -> Wishes:
    """``headers`` as ASGI has them. Raises ``BadRequest`` for a number out of range."""
    sent = dict(headers)
    delay = sent.get(_ACCEPT_DELAY, b"").strip().lower() in _YES
    told = sent.get(_SAMPLES)
    if told is None or best_of is None:
        return Wishes(accepts_delay=delay)
    samples = int(told) if told.isdigit() and len(told) < 4 else 0
    if not 1 <= samples <= best_of.max_samples:
        shown = told[:20].decode("latin-1")
        raise BadRequest(
            f"X-Fairgate-Samples: expected 1 to {best_of.max_samples}, got {shown!r}",
            param="X-Fairgate-Samples",
        )
    return Wishes(samples, delay)


@dataclass(frozen=True, slots=True)
class Draft:
    """What an engine is asked in place of what the client sent."""

    call: Call
    body: bytes
    samples: int
    logprobs: bool = False
    """Log-probabilities were asked for by us, and are not for the client."""


@dataclass(frozen=True)
class Plan:
    """How one request is to be served. Never streamed by the engine: answers are compared first."""

    asked: Call
    """What the client sent."""
    body: bytes
    samples: Mapping[str, int]
    """Answers that each lane writes; 1 where it is not named."""
    by_logprobs: bool = False
    """Several answers are told apart by log-probabilities."""
    cascade: Cascade | None = None
    """Where the first answer must be good enough."""

    @cached_property
    def prompt(self) -> str:
        """What the answers are answers to."""
        return prompt_text(self.asked)

    def draft(self, lane: str) -> Draft:
        """What an engine of ``lane`` is asked."""
        samples = self.samples.get(lane, 1)
        cascade = self.cascade if self.cascade and self.cascade.first == lane else None
        judged = cascade is not None and isinstance(cascade.scorer, LogProbability)
        return self._draft(samples, logprobs=judged or (samples > 1 and self.by_logprobs))

    def plain(self) -> Plan:
        """What the client sent and no more, but that it is not streamed by the engine."""
        return Plan(self.asked, self.body, {})

    def _draft(self, samples: int, *, logprobs: bool) -> Draft:
        call = self.asked
        logprobs = logprobs and not _asks_for_logprobs(call)
        changes: dict[str, Raw] = {}
        if samples > 1:
            changes["n"] = Raw(b"%d" % samples)
        if logprobs:
            changes["logprobs"] = _ASKS_FOR_LOGPROBS[call.route]
        if not changes and not call.stream:
            return Draft(call, self.body, 1)
        fields = {**call.fields, **changes}
        if call.stream:
            fields.pop("stream", None)
            fields.pop("stream_options", None)
        n = samples if samples > 1 else call.n
        changed = replace(call, n=n, stream=False, fields=fields, duplicates=False)
        return Draft(changed, _encode(fields), samples, logprobs)


class Planner:
    """Makes the plans of one pool."""

    def __init__(self, best_of: BestOf | None, cascade: Cascade | None) -> None:
        self.best_of = best_of
        self.active = best_of is not None or cascade is not None
        """There may be plans at all."""
        self._cascade = cascade
        self._by_logprobs = best_of is not None and isinstance(best_of.scorer, LogProbability)

    def plan(
        self,
        body: bytes,
        call: Call,
        wishes: Wishes,
        lanes: Sequence[str],
        *,
        routed: Mapping[str, int] | None = None,
        free_choice: bool = False,
    ) -> Plan | None:
        """How to serve ``call``, the decoded ``body``; ``None``: as it is, with one answer.

        ``lanes`` may serve it, the preferred first. ``routed``: answers for each lane as a router
        chose. ``free_choice``: the client left the lane to us.
        """
        if not _can_choose(call, accepts_delay=wishes.accepts_delay):
            return None
        samples = self._samples(call, wishes, lanes, routed or {})
        cascade = self._cascade
        if cascade is not None and not (free_choice and lanes[0] == cascade.first):
            cascade = None
        if cascade is None and not samples:
            return None
        return Plan(call, body, samples, self._by_logprobs, cascade)

    def _samples(
        self, call: Call, wishes: Wishes, lanes: Sequence[str], routed: Mapping[str, int]
    ) -> dict[str, int]:
        """Where more than one answer is to be written, and how many."""
        best_of = self.best_of
        if best_of is None or not may_sample(call, accepts_delay=wishes.accepts_delay):
            return {}
        wanted = {
            lane: wishes.samples or routed.get(lane) or best_of.samples.get(lane, 1)
            for lane in lanes
        }
        return {lane: min(n, best_of.max_samples) for lane, n in wanted.items() if n > 1}


def may_sample(call: Call, *, accepts_delay: bool = False) -> bool:
    """Several answers may be written to ``call``: see :class:`Planner`."""
    return _can_choose(call, accepts_delay=accepts_delay) and not _is_greedy(call)


def _can_choose(call: Call, *, accepts_delay: bool) -> bool:
    """The client wants one answer to one prompt, on a route where an engine can write several,
    and can wait for it."""
    return (
        (accepts_delay or not call.stream)
        and call.route in _ASKS_FOR_LOGPROBS
        and call.choices == 1
        and not _is_true(call.fields.get("use_beam_search"))
    )


def _is_greedy(call: Call) -> bool:
    try:
        temperature = decode(call.fields.get("temperature", b"null"), type=float | None)
    except DecodeError:
        return True  # the engine will say what is wrong with it
    return temperature is not None and temperature < _GREEDY


def _asks_for_logprobs(call: Call) -> bool:
    told = bytes(call.fields.get("logprobs", b"null"))
    return told not in (b"null", b"false")


def _is_true(value: Raw | None) -> bool:
    return value is not None and bytes(value) == b"true"
