"""Has answers judged on their way out: by checks at once, by a judge's service afterwards."""

from __future__ import annotations

import asyncio
import random

import aiohttp
import structlog

from fairgate.config.routing import Judge
from fairgate.errors import StoreError
from fairgate.routing.base import RouteRequest
from fairgate.routing.checks import answer_text, checked
from fairgate.routing.live import LiveRouting
from fairgate.ticket import Ticket

_MOST_AT_ONCE = 64

log = structlog.get_logger("fairgate.routing")


class Judging:
    """Of one gateway process. An answer is never held up by it."""

    def __init__(self, session: aiohttp.ClientSession, rng: random.Random | None = None) -> None:
        self._session = session
        self._rng = rng or random.Random()  # noqa: S311 — which answers are judged
        self._running: set[asyncio.Task[None]] = set()
        self._failing = False

    async def stop(self) -> None:
        """Give up what is still being judged."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def look(self, ticket: Ticket, answer: bytes) -> None:
        """Judge the whole ``answer`` to the routed request of ``ticket``, before it is sent."""
        routed, settings = ticket.routed, ticket.pool.routing.settings
        if settings is None or routed is None or not routed.decision.router:
            return
        if ticket.score is None:
            ticket.score = checked(ticket.call, answer, settings.checks)
        judge = settings.judge
        if judge is None or ticket.score is not None or self._rng.random() >= judge.share:
            return
        text = answer_text(answer)
        if text is not None and len(self._running) < _MOST_AT_ONCE:
            lane = ticket.grant.lane if ticket.grant else routed.decision.lanes[0]
            model = ticket.pool.lanes[lane].model or lane
            asked = {"prompt": routed.request.text, "answer": text, "model": model}
            work = self._judge(judge, asked, routed.request, ticket.pool.routing)
            task = asyncio.create_task(work)
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _judge(
        self, judge: Judge, asked: dict[str, str], request: RouteRequest, routing: LiveRouting
    ) -> None:
        try:
            score = await self._ask(judge, asked)
            await routing.feedback(request.tenant, request.id, score, agreed=request.satisfaction)
        except (aiohttp.ClientError, TimeoutError, ValueError, StoreError) as error:
            if not self._failing:
                log.warning("an answer was not judged", url=judge.url, error=repr(error)[:200])
            self._failing = True
        else:
            self._failing = False

    async def _ask(self, judge: Judge, asked: dict[str, str]) -> float:
        async with (
            asyncio.timeout(judge.timeout_s),
            self._session.post(judge.url, json=asked) as answer,
        ):
            answer.raise_for_status()
            told = await answer.json(content_type=None)
        score = float(told["score"]) if isinstance(told, dict) and "score" in told else -1.0
        if not 0 <= score <= 1:
            raise ValueError(f"expected a score from 0 to 1, got {str(told)[:80]}")
        return score
