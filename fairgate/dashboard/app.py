"""The pages as an ASGI app: login, overview, tenants, audit log, and the events in between."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib import resources
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fairgate.admin.access import Access, Admin
from fairgate.config import Tenant
from fairgate.dashboard.live import REGIONS, Frame, Live, Viewer
from fairgate.dashboard.pages import POLICY, Pages
from fairgate.errors import NotFound, Refusal, Unauthenticated
from fairgate.inspection.observer import Observer

PATH = "/fairgate"

_STATIC = resources.files("fairgate") / "dashboard" / "static"
_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "txt": "text/plain"}
_LISTED = 100
_LONGEST_FORM = 4096
_CHECK_S = 30.0

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}


class Dashboard:
    """Serves :data:`PATH` and what is below it to whoever ``access`` lets in."""

    def __init__(self, observer: Observer, access: Access) -> None:
        self._observer = observer
        self._access = access
        self._runtime = observer.runtime
        self._pages = Pages()
        self._live = Live(observer, self._pages)
        self._app = Starlette(
            routes=[
                Route("/", self.overview),
                Route("/login", self.login, methods=["GET", "POST"]),
                Route("/logout", self.logout, methods=["POST"]),
                Route("/tenants", self.tenants),
                Route("/tenants/{name}", self.tenant),
                Route("/audit", self.audit),
                Route("/events", self.events),
                Route("/static/{name}", self.static),
            ],
            exception_handlers={
                Unauthenticated: self._to_login,
                Refusal: self._refused,
                HTTPException: self._refused,
            },
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raises ``NotFound`` where there is no admin key: nothing is here."""
        if not self._runtime.config.admin.keys:
            raise NotFound(f"no such route: {scope['path'][:200]}")
        await self._app(scope, receive, send)

    # Pages

    async def overview(self, request: Request) -> Response:
        """Who gets what, who waits and why."""
        admin = await self._access.who(request.scope)
        pool = self._pool(request)
        return self._page(request, "overview.html", admin, pool=pool, frame=self._live.frame(pool))

    async def tenants(self, request: Request) -> Response:
        """All tenants that are configured, a page at a time."""
        admin = await self._access.who(request.scope)
        asked = request.query_params.get("q", "")[:64]
        after = request.query_params.get("after", "")[:64]
        known = self._runtime.config.tenants
        names = [n for n in sorted(known) if asked.lower() in n.lower() and n > after]
        return self._page(
            request, "tenants.html", admin,
            asked=asked, after=after, total=len(known),
            more=names[_LISTED - 1] if len(names) > _LISTED else "",
            tenants=[(name, known[name], self._live.rows(name)) for name in names[:_LISTED]],
        )  # fmt: skip

    async def tenant(self, request: Request) -> Response:
        """One tenant: how it stands, its weight, limits and keys."""
        admin = await self._access.who(request.scope)
        name = request.path_params["name"]
        found = self._runtime.config.tenants.get(name)
        if found is None:
            raise NotFound(f"no tenant is named {name[:64]!r}")
        return self._page(
            request, "tenant.html", admin,
            name=name, tenant=found, fields=_fields(found),
            pool=self._live.home(name), standing=self._live.tenant(name).regions["standing"],
        )  # fmt: skip

    async def audit(self, request: Request) -> Response:
        """Who changed what; the page reads it from the admin API."""
        admin = await self._access.who(request.scope)
        return self._page(request, "audit.html", admin)

    # Login

    async def login(self, request: Request) -> Response:
        """A form for the admin key; with the right one, a session."""
        if request.method == "GET":
            return self._page(request, "login.html", None, error="")
        form = parse_qs((await _body(request)).decode("utf-8", "replace"))
        try:
            cookie = await self._access.begin(request.scope, form.get("key", [""])[0].strip())
        except Refusal as refusal:
            page = self._page(request, "login.html", None, error=refusal.message)
            page.status_code = refusal.status
            return page
        return _with_cookie(self._redirect(request, "/"), cookie)

    async def logout(self, request: Request) -> Response:
        """End the session."""
        await self._access.who(request.scope)
        cookie = await self._access.end(request.scope)
        return _with_cookie(self._redirect(request, "/login"), cookie)

    # Events

    async def events(self, request: Request) -> Response:
        """One event a second, for as long as the page is open and its session lasts."""
        await self._access.who(request.scope)
        headers = {**_HEADERS, "cache-control": "no-store", "x-accel-buffering": "no"}
        tenant = request.query_params.get("tenant")
        pool = self._pool(request)
        look = partial(self._live.tenant, tenant) if tenant else partial(self._live.frame, pool)
        stream = self._events(request, look)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    async def _events(
        self, request: Request, look: Callable[[], Frame | None]
    ) -> AsyncIterator[bytes]:
        viewer, loop = Viewer(), asyncio.get_running_loop()
        checked = loop.time()
        yield b"retry: 1000\n\n"
        while not self._runtime.draining:
            frame = look()
            if frame is not None:
                yield viewer.event(frame, self._observer.stale)
            await self._observer.next()
            if loop.time() - checked > _CHECK_S:
                checked = loop.time()
                try:
                    await self._access.who(request.scope)
                except Refusal:
                    return

    # What all pages share

    async def static(self, request: Request) -> Response:
        """Style sheet, scripts, icon: their addresses change with their content."""
        name = request.path_params["name"]
        if not re.fullmatch(r"[A-Za-z0-9.-]+\.(css|js|svg|txt)", name):
            raise NotFound("no such file")
        try:
            content = (_STATIC / name).read_bytes()
        except OSError as error:
            raise NotFound("no such file") from error
        kept = {"cache-control": "public, max-age=31536000, immutable"}
        kind = _KINDS[name.rpartition(".")[2]]
        return Response(content, media_type=kind, headers={**_HEADERS, **kept})

    def _pool(self, request: Request) -> str:
        asked = request.query_params.get("pool")
        if asked is None:
            return next(iter(self._runtime.pools))
        if asked not in self._runtime.pools:
            raise NotFound(f"no pool is named {asked[:64]!r}")
        return asked

    def _page(
        self, request: Request, template: str, admin: Admin | None, **known: object
    ) -> Response:
        root = f"{request.scope.get('root_path', '')}"
        text = self._pages.render(
            template,
            root=root,
            admin=admin,
            path=request.scope["path"],
            pools=list(self._runtime.pools),
            regions=REGIONS,
            **known,
        )
        return Response(text, media_type="text/html", headers=_HEADERS)

    def _redirect(self, request: Request, path: str) -> RedirectResponse:
        root = request.scope.get("root_path", "")
        return RedirectResponse(f"{root}{path}", 303, headers={"cache-control": "no-store"})

    async def _to_login(self, request: Request, _: Exception) -> Response:
        if request.url.path.endswith("/events"):
            return Response("log in again\n", 401, headers=_HEADERS)
        return self._redirect(request, "/login")

    async def _refused(self, request: Request, error: Exception) -> Response:
        status, said = _told(error)
        page = self._page(request, "refused.html", None, status=status, said=said)
        page.status_code = status
        return page


def _told(error: Exception) -> tuple[int, str]:
    if isinstance(error, Refusal):
        return error.status, error.message
    assert isinstance(error, HTTPException)  # noqa: S101 — registered for these only
    return error.status_code, error.detail


def _with_cookie(response: Response, cookie: bytes) -> Response:
    response.raw_headers.append((b"set-cookie", cookie))
    return response


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_FORM:
            raise HTTPException(413, "the form is too large")
    return body


def _fields(tenant: Tenant) -> list[tuple[str, str, str, int | None]]:
    """The limits as form fields: section, name, label, value."""
    return [
        (section, name, label, getattr(limits, name))
        for section, limits in (("limits", tenant.limits), ("user_limits", tenant.user_limits))
        for name, label in (
            ("rpm", "Requests per minute"),
            ("tpm", "Tokens per minute"),
            ("concurrency", "Requests at once"),
            ("daily_tokens", "Tokens per day"),
        )
    ]
