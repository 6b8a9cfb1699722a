"""Answers requests that are refused: with an OpenAI error object, or as the app says."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fairgate import headers
from fairgate.errors import Refusal

OnRefusal = Callable[[Scope, Refusal], ASGIApp]
"""Makes the app's own answer to a refusal, such as a Starlette ``Response``."""


@dataclass(frozen=True, slots=True)
class Refuser:
    """Writes refusals for one FairGate."""

    rng: random.Random
    """For the jitter of ``Retry-After``."""
    on_refusal: OnRefusal | None = None

    async def answer(
        self,
        refusal: Refusal,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        request_id: str,
        lane: str = "",
        queue_s: float | None = None,
    ) -> int:
        """Send the answer; returns its status. The app's own one gets our headers as well."""
        answer = headers.error_response(
            refusal,
            request_id=request_id,
            rng=self.rng,
            accept=dict(scope["headers"]).get(b"accept", b""),
            limits=refusal.limits,
            lane=lane,
            queue_s=queue_s,
        )
        if self.on_refusal is None:
            await _send_whole(answer, send)
            return answer.status
        added = [header for header in answer.headers if not header[0].startswith(b"content-")]
        status = answer.status

        async def send_with_ours(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = headers.merged(headers.lowered(message), added, ())
                message = {**message, "headers": sent}
            await send(message)

        await self.on_refusal(scope, refusal)(scope, receive, send_with_ours)
        return status


async def _send_whole(answer: headers.ErrorResponse, send: Send) -> None:
    start = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
    await send(start)
    await send({"type": "http.response.body", "body": answer.body})
