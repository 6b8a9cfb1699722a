"""``GET /fairgate/v1/ledger`` and ``/fairgate/v1/queue``: the pools as JSON, for operators."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fairgate.admin.access import Access
from fairgate.errors import Unavailable
from fairgate.inspection import judge
from fairgate.inspection.observer import Observer

LEDGER = "/fairgate/v1/ledger"
QUEUE = "/fairgate/v1/queue"

_encode = msgspec.json.Encoder().encode


class Inspection:
    """Serves both to whoever ``access`` lets in; raises its refusals."""

    def __init__(self, observer: Observer, access: Access) -> None:
        self._observer = observer
        self._access = access

    def routes(self) -> list[Route]:
        """For the gateway's router."""
        return [Route(LEDGER, self.ledger), Route(QUEUE, self.queue)]

    async def ledger(self, request: Request) -> Response:
        """Who gets what."""
        return await self._answer(request, judge.ledger)

    async def queue(self, request: Request) -> Response:
        """Who waits, and why."""
        return await self._answer(request, judge.queue)

    async def _answer(
        self, request: Request, make: Callable[[Observer], msgspec.Struct]
    ) -> Response:
        await self._access.who(request.scope)
        if self._observer.stale:
            raise Unavailable(self._observer.stale, code="store_unavailable", retry_after=2)
        return Response(
            _encode(make(self._observer)),
            media_type="application/json",
            headers={"cache-control": "no-store"},
        )
