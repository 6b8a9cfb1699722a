"""The endpoint where tenants say how good an answer was: a request id in, a score in 0..1."""

from __future__ import annotations

import random
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from starlette.types import Receive, Scope, Send

from fairgate import headers
from fairgate.errors import BadRequest, MethodNotAllowed, NotFound, Refusal, StoreError, Unavailable
from fairgate.headers import ErrorResponse
from fairgate.identity import Principal, by_key
from fairgate.inbox import ClientGone, Inbox
from fairgate.routing.live import Verdict
from fairgate.runtime import Runtime

PATH = "/fairgate/v1/feedback"

_MOST_BYTES = 16 * 1024
_WORDS = {"good": 1.0, "bad": 0.0}


class Told(Struct, forbid_unknown_fields=True):
    """The body."""

    request_id: Annotated[str, Meta(min_length=1, max_length=128)]
    """``x-request-id`` of the answer."""
    score: float | str
    """0 (useless) to 1 (as wanted), or ``good`` or ``bad``."""


_decode = msgspec.json.Decoder(Told).decode
_encode = msgspec.json.Encoder().encode


class Feedback:
    """Serves :data:`PATH` to whoever has an API key, for answers to its own tenant's requests."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._rng = random.Random()  # noqa: S311 — jitter of Retry-After

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one feedback. Cancelled: it may have been taken."""
        fields: dict[bytes, bytes] = dict(scope["headers"])
        request_id = headers.request_id(fields.get(headers.REQUEST_ID))
        try:
            body = await self._take(scope, Inbox(receive, self._runtime.deadlines))
            told = [(b"content-type", b"application/json"), *headers.route_headers(request_id)]
            answer = ErrorResponse(200, told, body)
        except ClientGone:
            return
        except (Refusal, StoreError) as error:
            refusal = error if isinstance(error, Refusal) else _away(error)
            answer = headers.error_response(
                refusal, request_id=request_id, rng=self._rng, accept=fields.get(b"accept", b"")
            )
            if isinstance(error, MethodNotAllowed):
                answer.headers.append((b"allow", b"POST"))
        start = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        await send(start)
        await send({"type": "http.response.body", "body": answer.body})

    async def _take(self, scope: Scope, inbox: Inbox) -> bytes:
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{scope['method']} is not allowed on {PATH}")
        principal = by_key(scope, self._runtime.identity, self._runtime.failed_keys)
        body = await inbox.read_body(
            limit=_MOST_BYTES, timeout_s=self._runtime.config.timeouts.body_s, declared=None
        )
        told, score = parse(body)
        verdict = await self._judge(principal, told.request_id, score)
        return _encode(
            {
                "request_id": told.request_id,
                "score": score,
                "lane": verdict.lane,
                "router": verdict.router,
                "owed": round(verdict.debt, 3),
            }
        )

    async def _judge(self, principal: Principal, request_id: str, score: float) -> Verdict:
        tenant = self._runtime.config.tenants.get(principal.tenant)
        agreed = tenant.satisfaction if tenant is not None else None
        for pool in self._runtime.pools.values():
            verdict = await pool.routing.feedback(
                principal.tenant, request_id, score, agreed=agreed
            )
            if verdict is not None:
                return verdict
        raise NotFound(
            f"no answer with the request id {request_id!r} waits for feedback: it was not routed, "
            "is too old, or had its feedback",
            code="request_not_found",
            param="request_id",
        )


def parse(body: bytes) -> tuple[Told, float]:
    """The body and its score as a number. Raises ``BadRequest`` naming the field and its value."""
    try:
        told = _decode(body)
    except msgspec.DecodeError as error:
        what, _, path = str(error).partition(" - at `$.")
        field = path.rstrip("`") or None
        message = f"{field}: {what}" if field else f"the body: {what}"
        raise BadRequest(message, param=field) from None
    score = _WORDS.get(told.score, -1.0) if isinstance(told.score, str) else told.score
    if not 0 <= score <= 1:
        shown = repr(told.score)[:40]
        raise BadRequest(f"score: expected 0 to 1, 'good' or 'bad', got {shown}", param="score")
    return told, score


def _away(error: StoreError) -> Unavailable:
    return Unavailable(str(error), code="store_unavailable", retry_after=2)
