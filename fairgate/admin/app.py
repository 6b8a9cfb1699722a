"""The admin API as an ASGI app: who asks, what the body says, the answer, every error a problem."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from fairgate import headers
from fairgate.admin.access import Access, Admin
from fairgate.admin.calls import AdminRoute, Asked, Reply
from fairgate.admin.handlers import Handlers
from fairgate.admin.openapi import describe
from fairgate.admin.routes import routes
from fairgate.errors import (
    BadRequest,
    Invalid,
    MethodNotAllowed,
    NotFound,
    Refusal,
    StoreError,
    Unavailable,
)
from fairgate.inbox import Inbox
from fairgate.runtime import Runtime

_MOST_BYTES = 1024 * 1024
_JSON = ("application/json", "application/merge-patch+json")
_COMMON = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class AdminApi:
    """Everything under ``/fairgate/v1`` that is the operators'; to be mounted there."""

    def __init__(self, runtime: Runtime, access: Access) -> None:
        self._runtime = runtime
        self._access = access
        self._rng = random.Random()  # noqa: S311 — jitter of Retry-After
        described = routes(Handlers(runtime, access))
        self._description = describe(described)
        told = AdminRoute("GET", "/openapi.json", "This description.", self._describe)
        self.app = Starlette(
            routes=[
                Route(route.path, self._endpoint(route), methods=[route.method])
                for route in (*described, told)
            ],
            exception_handlers={
                Refusal: self._refuse,
                StoreError: self._refuse_away,
                HTTPException: self._refuse_http,
            },
        )

    async def _describe(self, asked: Asked) -> Reply:
        return Reply(self._description)

    def _endpoint(self, route: AdminRoute) -> Callable[[Request], Awaitable[Response]]:
        async def serve(request: Request) -> Response:
            admin = Admin("", "") if route.open else await self._access.who(request.scope)
            if route.open and not self._access.on:
                raise self._no_such_route(request)
            body = await self._body(request) if route.body is not None else {}
            await self._catch_up()
            reply = await route.handle(
                Asked(
                    admin=admin,
                    scope=request.scope,
                    path=request.path_params,
                    query=request.query_params,
                    body=body,
                    if_match=request.headers.get("if-match", ""),
                )
            )
            return self._answer(request, reply)

        return serve

    async def _catch_up(self) -> None:
        """Who changed something on another gateway a moment ago must not see it as it was."""
        if self._runtime.changes is not None:
            try:
                await self._runtime.changes.refresh()
            except StoreError:
                pass  # what is known still answers; a change fails by itself

    async def _body(self, request: Request) -> Mapping[str, Any]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in _JSON:
            raise BadRequest(
                f"content-type: expected application/json, got {kind[:80]!r}", param="content-type"
            )
        text = await Inbox(request.receive, self._runtime.deadlines).read_body(
            limit=_MOST_BYTES, timeout_s=self._runtime.config.timeouts.body_s, declared=None
        )
        try:
            return _decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(f"the body: {error}") from None

    def _answer(self, request: Request, reply: Reply) -> Response:
        if reply.lines is not None:
            return StreamingResponse(
                reply.lines,
                headers={**_COMMON, **_request_id(request)},
                media_type="application/jsonl",
            )
        content = b"" if reply.content is None else _encode(reply.content)
        response = Response(content, reply.status, {**_COMMON, **_request_id(request)})
        if reply.content is not None:
            response.headers["content-type"] = "application/json"
        if reply.etag:
            response.headers["etag"] = reply.etag
        for name, value in reply.headers:
            response.headers.append(name, value)
        return response

    async def _refuse(self, request: Request, refusal: Exception) -> Response:
        assert isinstance(refusal, Refusal)  # noqa: S101 — registered for these only
        request_id = _request_id(request)["x-request-id"]
        answer = headers.error_response(
            refusal, request_id=request_id, rng=self._rng, accept=b"application/problem+json"
        )
        body = answer.body
        told = [header for header in answer.headers if header[0] != b"content-length"]
        if isinstance(refusal, Invalid):
            problem = msgspec.json.decode(body)
            problem["errors"] = [_field_problem(line) for line in refusal.problems]
            body = _encode(problem)
        response = Response(body, answer.status, _COMMON)
        response.raw_headers.extend(told)
        return response

    async def _refuse_away(self, request: Request, error: Exception) -> Response:
        refusal = Unavailable(str(error), code="store_unavailable", retry_after=2)
        return await self._refuse(request, refusal)

    async def _refuse_http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 — registered for these only
        refusal: Refusal = self._no_such_route(request)
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and self._access.on:
            path = request.url.path[:200]
            refusal = MethodNotAllowed(f"{request.method} is not allowed on {path}")
        response = await self._refuse(request, refusal)
        if isinstance(refusal, MethodNotAllowed):
            response.headers["allow"] = (error.headers or {}).get("allow", "")
        return response

    def _no_such_route(self, request: Request) -> NotFound:
        return NotFound(f"no such route: {request.url.path[:200]}")


def _request_id(request: Request) -> dict[str, str]:
    sent = request.headers.get("x-request-id", "").encode("latin-1")
    return {"x-request-id": headers.request_id(sent)}


def _field_problem(line: str) -> dict[str, str]:
    name, found, told = line.partition(": ")
    return {"field": name, "message": told} if found else {"field": "", "message": line}
