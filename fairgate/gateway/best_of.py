"""Carries a plan out: has several answers written, chooses the client's, or asks a better lane.

Each lane is asked once, with ``n``. What the client gets has the shape that it asked for, and the
engine's usage: all answers that were written are told, and charged, as OpenAI does for ``best_of``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from starlette.types import Scope

from fairgate import headers
from fairgate.admission.model import Served
from fairgate.choices import Choices, read_choices
from fairgate.config.sampling import Cascade
from fairgate.engines.transport import Answer as EngineAnswer
from fairgate.errors import Refusal, StoreError
from fairgate.gateway.restreaming import as_stream
from fairgate.metering import Measured, Observed, TokenMeter
from fairgate.runtime import Runtime
from fairgate.sampling import Draft, Plan
from fairgate.scanners import JsonScanner
from fairgate.scoring.base import Answer, Scorer, ScoringFailed
from fairgate.scoring.build import build_scorer
from fairgate.ticket import Ticket

_NOT_AS_CHANGED = frozenset((400, 422))
"""What an engine answers to fields that it does not take."""

Ask = Callable[[Scope, Ticket], Awaitable[tuple[EngineAnswer, bytes]]]
"""Has the granted engine, or another one in its place, answer in whole."""

log = structlog.get_logger("fairgate.gateway")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to the client."""

    status: int
    headers: Sequence[headers.Header]
    body: bytes


@dataclass(frozen=True, slots=True)
class Chosen:
    """One lane's answer to the client."""

    answer: EngineAnswer
    body: bytes
    """All that the engine sent."""
    choices: Choices | None
    """``None``: an answer that cannot be compared, such as an error."""
    draft: Draft
    index: int = 0
    score: float | None = None
    """``None``: nothing was compared, or the scorer failed."""


@dataclass(frozen=True, slots=True)
class _Scorers:
    best_of: Scorer | None
    cascade: Scorer | None


class BestOf:
    """Serves requests that have a plan."""

    def __init__(self, runtime: Runtime, ask: Ask) -> None:
        """Raises ``ConfigError`` for a verifier that cannot be imported."""
        self._runtime = runtime
        self._ask = ask
        self._scorers = {name: _scorers(runtime, name) for name in runtime.pools}

    async def serve(self, scope: Scope, ticket: Ticket, plan: Plan) -> Reply:
        """Have it answered. Raises as ``ask`` does where no lane has answered.

        Cancelled: the engine's work on it ends, and the scorer is not waited for.
        """
        chosen = await self._chosen(scope, ticket, plan)
        cascade = plan.cascade
        lane = ticket.grant.lane if ticket.grant else ""
        if cascade is None or lane != cascade.first:
            return _reply(chosen, plan, ticket)
        better, outcome = None, "kept"
        if _is_below(chosen, cascade):
            better = await self._better(scope, ticket, plan, chosen, cascade)
            outcome = "escalated" if better is not None else "not_escalated"
        self._runtime.metrics.cascaded(ticket.pool.name, lane, outcome)
        if better is not None:
            return _reply(better, plan, ticket, escalated_from=lane)
        return _reply(chosen, plan, ticket)

    async def _chosen(self, scope: Scope, ticket: Ticket, plan: Plan) -> Chosen:
        """The best of what the granted lane writes."""
        answer, body = await self._ask(scope, ticket)
        draft = _draft(ticket, plan)
        if answer.status in _NOT_AS_CHANGED and draft.body != plan.body:
            # Whether it is the client's own mistake shows when it is asked without ours.
            ticket.plan = plan.plain()
            answer, body = await self._ask(scope, ticket)
            draft = _draft(ticket, ticket.plan)
        choices = read_choices(body) if answer.status == 200 else None
        chosen = Chosen(answer, body, choices, draft)
        return chosen if choices is None else await self._judged(chosen, choices, ticket, plan)

    async def _judged(self, chosen: Chosen, choices: Choices, ticket: Ticket, plan: Plan) -> Chosen:
        scorers, answers = self._scorers[ticket.pool.name], choices.answers
        index, score = 0, None
        lane = ticket.grant.lane if ticket.grant else ""
        if scorers.best_of is not None and len(answers) > 1:
            index, score = await _best(scorers.best_of, plan.prompt, answers)
            self._runtime.metrics.sampled(ticket.pool.name, lane, len(answers))
        if scorers.cascade is not None and plan.cascade is not None and lane == plan.cascade.first:
            scores = await _scores(scorers.cascade, plan.prompt, answers)
            score = scores[index] if scores else None
        return Chosen(chosen.answer, chosen.body, choices, chosen.draft, index, score)

    async def _better(
        self, scope: Scope, ticket: Ticket, plan: Plan, first: Chosen, cascade: Cascade
    ) -> Chosen | None:
        """The answer of the cascade's other lane; ``None``: it has none, and nothing is held."""
        served = _served(scope, ticket, first.body)
        ticket.plan = plain = plan.plain()
        config = self._runtime.config
        call = plain.draft(cascade.then).call
        estimate = ticket.pool.estimate(call, ticket.principal, cascade.then, config)
        assert isinstance(ticket.meter, TokenMeter)  # noqa: S101 — only LLM calls have plans
        meter = ticket.meter.elsewhere(cascade.then, call, estimate)
        try:
            await ticket.escalate(meter, served, wait_s=cascade.wait_s)
            answer, body = await self._ask(scope, ticket)
        except (Refusal, StoreError) as failure:
            log.warning("not escalated", lane=cascade.then, error=str(failure))
            ticket.settle(Served())
            return None
        if answer.status != 200:
            log.warning("not escalated", lane=cascade.then, status=answer.status)
            ticket.settle(Served())
            return None
        ticket.answered_by = None
        return Chosen(answer, body, read_choices(body), _draft(ticket, plain))


def _scorers(runtime: Runtime, pool: str) -> _Scorers:
    section = runtime.config.pools[pool]
    best_of, cascade = section.best_of, section.cascade
    return _Scorers(
        build_scorer(best_of.scorer, runtime.http.session) if best_of else None,
        build_scorer(cascade.scorer, runtime.http.session) if cascade else None,
    )


def _draft(ticket: Ticket, plan: Plan) -> Draft:
    """What the engine that answered was asked: it may be of another lane than the first one."""
    assert ticket.grant is not None  # noqa: S101 — held until its answer is sent
    return plan.draft(ticket.grant.lane)


async def _best(scorer: Scorer, prompt: str, answers: Sequence[Answer]) -> tuple[int, float | None]:
    """The best answer's index, the first of equals, and its score."""
    scores = await _scores(scorer, prompt, answers)
    if scores is None:
        return 0, None
    index = max(range(len(scores)), key=scores.__getitem__)
    return index, scores[index]


async def _scores(scorer: Scorer, prompt: str, answers: Sequence[Answer]) -> Sequence[float] | None:
    """``None`` where the scorer fails: then the first answer is as good as any."""
    try:
        scores = await scorer.score(prompt, answers)
        if len(scores) != len(answers) or not all(map(math.isfinite, scores)):
            raise ScoringFailed(f"expected {len(answers)} finite scores, got {scores!r:.100}")
    except ScoringFailed as failure:
        log.warning("scoring failed", error=str(failure))
        return None
    return scores


def _is_below(chosen: Chosen, cascade: Cascade) -> bool:
    return chosen.score is not None and chosen.score < cascade.below


def _served(scope: Scope, ticket: Ticket, body: bytes) -> Served:
    """What the answer that is not good enough has cost."""
    assert ticket.grant is not None  # noqa: S101 — it has answered, and is settled only now
    scanner = JsonScanner()
    scanner.feed(body)
    scanner.finish()
    assert isinstance(ticket.meter, TokenMeter)  # noqa: S101 — only LLM calls have plans
    return ticket.meter.unheard().served(
        Observed(
            lane=ticket.grant.lane,
            ended=True,
            usage=scanner.usage,
            reported=None,
            measured=Measured(
                scope=scope,
                request_bytes=len(ticket.body),
                ended=True,
                answer_bytes=len(body),
                seconds=time.perf_counter() - (ticket.granted_at or 0.0),
                status=200,
            ),
        )
    )


def _reply(chosen: Chosen, plan: Plan, ticket: Ticket, *, escalated_from: str = "") -> Reply:
    """The answer in the shape that the client asked for."""
    status, sent, body = chosen.answer.status, chosen.answer.headers, chosen.body
    choices, draft = chosen.choices, chosen.draft
    if choices is None:
        return Reply(status, sent, body)
    added = headers.choice_headers(len(choices.answers), chosen.score, escalated_from)
    if plan.asked.stream:
        body = as_stream(choices, chosen.index, without_logprobs=draft.logprobs)
        ticket.hides_usage = plan.asked.needs_usage
        added.append((b"content-type", b"text/event-stream; charset=utf-8"))
    elif draft.body != plan.body:
        body = choices.only(chosen.index, without_logprobs=draft.logprobs)
    added.append((b"content-length", b"%d" % len(body)))
    replaced = {name for name, _ in added}
    return Reply(status, [*(h for h in sent if h[0].lower() not in replaced), *added], body)
