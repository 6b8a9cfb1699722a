"""The endpoint as an ASGI app: identify, choose JSON or page, look into the ledger, answer."""

from __future__ import annotations

import base64
import binascii
import random
import re
from collections.abc import Mapping
from urllib.parse import parse_qs

import msgspec
from starlette.types import Receive, Scope, Send

from fairgate import headers
from fairgate.errors import MethodNotAllowed, Refusal, StoreError, Unauthenticated, Unavailable
from fairgate.headers import ErrorResponse, Header
from fairgate.identity import Authenticate, Principal, complete, who_sends
from fairgate.me import page
from fairgate.me.looks import Looks
from fairgate.me.report import Report, report
from fairgate.runtime import Runtime

PATH = "/fairgate/v1/me"

_HTML = b"text/html; charset=utf-8"
_COMMON: list[Header] = [
    (b"cache-control", b"no-store"),
    (b"vary", b"accept, authorization, x-api-key, x-fairgate-user"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_PAGE: list[Header] = [
    (b"content-type", _HTML),
    (b"content-security-policy", page.POLICY),
    (b"x-frame-options", b"DENY"),
]
_BASIC: Header = (
    b"www-authenticate",
    b'Basic realm="fairgate: API key as password", charset="UTF-8"',
)

_encode = msgspec.json.Encoder().encode


class Me:
    """Serves :data:`PATH` to whoever has an API key; never one tenant's data to another."""

    def __init__(self, runtime: Runtime, authenticate: Authenticate | None = None) -> None:
        self._runtime = runtime
        self._authenticate = authenticate
        self._looks = Looks()
        self._rng = random.Random()  # noqa: S311 — jitter of Retry-After

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; its body, if there is one, is not read."""
        answer = await self.answer(scope)
        body = b"" if scope["method"] == "HEAD" else answer.body
        start = {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        await send(start)
        await send({"type": "http.response.body", "body": body})

    async def answer(self, scope: Scope) -> ErrorResponse:
        """Status, headers and body for the request in ``scope``; refusals are answers as well."""
        fields: dict[bytes, bytes] = dict(scope["headers"])
        html = wants_html(fields.get(b"accept", b""))
        request_id = headers.request_id(fields.get(headers.REQUEST_ID))
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise MethodNotAllowed(f"{scope['method']} is not allowed on {PATH}")
            asking = {**scope, "headers": tuple(with_basic(fields).items())} if html else scope
            principal = await who_sends(
                asking,
                self._runtime.identity,
                self._authenticate,
                failed=self._runtime.failed_keys,
            )
            found = await self._report(complete(principal, None, None))
        except StoreError as error:
            refusal = Unavailable(str(error), code="store_unavailable", retry_after=2)
            return self._refused(refusal, html, request_id, fields)
        except Refusal as refusal:
            return self._refused(refusal, html, request_id, fields)
        if html:
            query = parse_qs(scope.get("query_string", b"").decode("latin-1"), True)
            body, kind = page.render(found, page.refresh_of(query)), _PAGE
        else:
            body, kind = _encode(found), [(b"content-type", b"application/json")]
        length = (b"content-length", b"%d" % len(body))
        told = [*kind, length, *_COMMON, *headers.route_headers(request_id)]
        return ErrorResponse(200, told, body)

    async def _report(self, principal: Principal) -> Report:
        config = self._runtime.config
        user = principal.user or principal.key_id
        pools = {
            name: (
                pool.policy,
                await self._looks.look(pool, principal.tenant, user, config.tenants),
            )
            for name, pool in self._runtime.pools.items()
        }
        return report(config, principal, pools)

    def _refused(
        self, refusal: Refusal, html: bool, request_id: str, fields: Mapping[bytes, bytes]
    ) -> ErrorResponse:
        status, told, body = headers.error_response(
            refusal,
            request_id=request_id,
            rng=self._rng,
            accept=fields.get(b"accept", b""),
        )
        if isinstance(refusal, MethodNotAllowed):
            told.append((b"allow", b"GET, HEAD"))
        if html:
            body = page.render_refusal(refusal)
            added = [*_PAGE, (b"content-length", b"%d" % len(body))]
            if isinstance(refusal, Unauthenticated):
                added.append(_BASIC)
            names = {name for name, _ in added}
            told = [*(header for header in told if header[0] not in names), *added]
        return ErrorResponse(status, [*told, *_COMMON], body)


def wants_html(accept: bytes) -> bool:
    """The client likes a page more than JSON (RFC 9110, section 12.5.1), as browsers do."""
    weights: dict[str, float] = {}
    for item in accept.decode("latin-1").lower().split(","):
        kind, *parameters = (part.strip() for part in item.split(";"))
        weights[kind] = max(weights.get(kind, 0.0), _quality(parameters))

    def liking(*kinds: str) -> float:
        return next((weights[kind] for kind in kinds if kind in weights), 0.0)

    page_q = liking("text/html", "text/*", "*/*")
    return page_q > liking("application/json", "application/*", "*/*")


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            told = re.fullmatch(r"q=([01](?:\.\d{0,3})?)", parameter)
            return float(told[1]) if told else 0.0
    return 1.0


def with_basic(fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The header fields with the password of Basic authentication as API key.

    For the page only: a browser asks for it in a window of its own, so no form of ours ever
    handles a key. The user name does not matter.
    """
    scheme, _, encoded = fields.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"basic":
        return dict(fields)
    try:
        key = base64.b64decode(encoded.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        key = b""
    return {**fields, b"authorization": b"Bearer " + key}
