"""The admin API's routes: each with what goes in and out, for serving it and for describing it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.types import Scope

from fairgate.admin import shapes
from fairgate.admin.access import Access, Admin
from fairgate.admin.operations import Operations
from fairgate.admin.views import Views, etag
from fairgate.billing.reader import UsageReader
from fairgate.billing.records import UsageRecord, milliseconds
from fairgate.billing.records import encode as encode_record
from fairgate.billing.sums import Sums
from fairgate.changes.store import ChangeStore
from fairgate.errors import Conflict, Invalid
from fairgate.runtime import Runtime

PREFIX = "/fairgate/v1"

_MOST_TENANTS = 1000
_MOST_ENTRIES = 1000


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to the API."""

    admin: Admin
    scope: Scope
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any]
    if_match: str


@dataclass(frozen=True, slots=True)
class Reply:
    """Its answer."""

    content: Any = None
    lines: AsyncIterator[bytes] | None = None
    """Instead of ``content``: many lines, made while they are sent."""
    status: int = 200
    etag: str = ""
    headers: tuple[tuple[str, str], ...] = ()


Handle = Callable[[Asked], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class AdminRoute:
    """One method of one path."""

    method: str
    path: str
    summary: str
    handle: Handle
    reply: type | None = None
    body: type | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    """Names of parameters, and what they mean."""
    status: int = 200
    open: bool = False
    """Also for those who are not logged in."""


class Handlers:
    """What the routes do, over one running gateway."""

    def __init__(self, runtime: Runtime, access: Access) -> None:
        self._runtime = runtime
        self._access = access
        self._operations = Operations(runtime)
        self._log = ChangeStore(runtime.link, runtime.config.admin.site)

    def routes(self) -> tuple[AdminRoute, ...]:
        """All of them."""
        return (
            *self._session_routes(),
            *self._tenant_routes(),
            *self._other_routes(),
            *self._usage_routes(),
        )

    def _session_routes(self) -> tuple[AdminRoute, ...]:
        s = shapes
        return (
            AdminRoute("POST", "/session", "Log a browser in; sets its cookie.", self.log_in,
                       None, s.Login, status=204, open=True),
            AdminRoute("GET", "/session", "Who asks.", self.session, s.Session),
            AdminRoute("DELETE", "/session", "Log out.", self.log_out, status=204),
        )  # fmt: skip

    def _tenant_routes(self) -> tuple[AdminRoute, ...]:
        s, paging = shapes, {
            "after": "Begin behind this name.", "limit": f"At most so many, {_MOST_TENANTS}.",
            "q": "Only names that hold this.",
        }  # fmt: skip
        one = "/tenants/{tenant}"
        return (
            AdminRoute("GET", "/tenants", "Tenants, by name.", self.tenants, s.Tenants,
                       query=paging),
            AdminRoute("POST", "/tenants", "Create a tenant.", self.create_tenant, s.Tenant,
                       s.NewTenant, status=201),
            AdminRoute("GET", one, "A tenant.", self.tenant, s.Tenant),
            AdminRoute("PATCH", one, "Change a tenant.", self.change_tenant, s.Tenant,
                       s.TenantTerms),
            AdminRoute("DELETE", one, "Delete a tenant and its keys.", self.delete_tenant,
                       status=204),
            AdminRoute("GET", f"{one}/keys", "A tenant's keys.", self.keys, s.Keys),
            AdminRoute("POST", f"{one}/keys", "Create a key; its text is shown this once.",
                       self.create_key, s.CreatedKey, s.NewKey, status=201),
            AdminRoute("DELETE", f"{one}/keys/{{key}}", "Revoke a key.", self.revoke_key,
                       status=204),
        )  # fmt: skip

    def _other_routes(self) -> tuple[AdminRoute, ...]:
        s, app, lane, engine = shapes, "/apps/{app}", "/lanes/{lane}", "/engines/{lane}/{engine}"
        paging = {"before": "Begin before this version.", "limit": f"At most {_MOST_ENTRIES}."}
        return (
            AdminRoute("GET", "/apps", "Apps.", self.apps, s.Apps),
            AdminRoute("GET", app, "An app.", self.app, s.App),
            AdminRoute("PUT", app, "Create an app, or say all of it.", self.put_app, s.App,
                       s.AppTerms),
            AdminRoute("PATCH", app, "Change an app.", self.change_app, s.App, s.AppTerms),
            AdminRoute("DELETE", app, "Delete an app that nobody names.", self.delete_app,
                       status=204),
            AdminRoute("GET", "/lanes", "Lanes.", self.lanes, s.Lanes),
            AdminRoute("GET", lane, "A lane.", self.lane, s.Lane),
            AdminRoute("PATCH", lane, "Change a lane.", self.change_lane, s.Lane, s.LanePatch),
            AdminRoute("GET", "/engines", "Engines.", self.engines, s.Engines),
            AdminRoute("GET", engine, "An engine.", self.engine, s.Engine),
            AdminRoute("PATCH", engine, "Drain an engine, or say its capacity.",
                       self.change_engine, s.Engine, s.EnginePatch),
            AdminRoute("GET", "/changes", "The changes in force.", self.changes, s.State),
            AdminRoute("GET", "/audit", "Who changed what, the newest first.", self.audit, s.Audit,
                       None, paging),
        )  # fmt: skip

    def _usage_routes(self) -> tuple[AdminRoute, ...]:
        span = {
            "since": "Charged then or later: a day or time of ISO 8601, UTC unless it says else.",
            "until": "Charged before then.",
            "tenant": "Only this one's.",
        }
        return (
            AdminRoute("GET", "/usage", "Usage records, one JSON object a line.", self.usage,
                       UsageRecord, query=span),
            AdminRoute("GET", "/usage/sums", "Usage by tenant.", self.usage_sums, shapes.UsageSums,
                       query=span),
        )  # fmt: skip

    # Sessions

    async def log_in(self, asked: Asked) -> Reply:
        key = asked.body.get("key", "")
        if not isinstance(key, str) or not key:
            raise Invalid(["key: expected an admin key, got none"])
        cookie = await self._access.begin(asked.scope, key)
        return Reply(status=204, headers=(("set-cookie", cookie.decode()),))

    async def session(self, asked: Asked) -> Reply:
        admin = asked.admin
        return Reply(shapes.Session(admin.key_id, admin.name, admin.may_change))

    async def log_out(self, asked: Asked) -> Reply:
        cookie = await self._access.end(asked.scope)
        return Reply(status=204, headers=(("set-cookie", cookie.decode()),))

    # Tenants

    async def tenants(self, asked: Asked) -> Reply:
        limit = _number(asked, "limit", 100, 1, _MOST_TENANTS)
        query = asked.query
        return Reply(self._views().tenants(query.get("after", ""), limit, query.get("q", "")))

    async def create_tenant(self, asked: Asked) -> Reply:
        made = await self._operations.create_tenant(asked.admin, asked.body)
        place = (("location", f"{PREFIX}/tenants/{made.name}"),)
        return Reply(made, status=201, etag=etag(made), headers=place)

    async def tenant(self, asked: Asked) -> Reply:
        return _tagged(self._views().tenant(asked.path["tenant"]))

    async def change_tenant(self, asked: Asked) -> Reply:
        name = asked.path["tenant"]
        return _tagged(
            await self._operations.change_tenant(asked.admin, name, asked.body, asked.if_match)
        )

    async def delete_tenant(self, asked: Asked) -> Reply:
        await self._operations.delete_tenant(asked.admin, asked.path["tenant"], asked.if_match)
        return Reply(status=204)

    async def keys(self, asked: Asked) -> Reply:
        return Reply(self._views().keys(asked.path["tenant"]))

    async def create_key(self, asked: Asked) -> Reply:
        tenant = asked.path["tenant"]
        made = await self._operations.create_key(asked.admin, tenant, asked.body)
        return Reply(made, status=201)

    async def revoke_key(self, asked: Asked) -> Reply:
        await self._operations.revoke_key(asked.admin, asked.path["tenant"], asked.path["key"])
        return Reply(status=204)

    # Apps, lanes, engines

    async def apps(self, asked: Asked) -> Reply:
        return Reply(self._views().apps())

    async def app(self, asked: Asked) -> Reply:
        return _tagged(self._views().app(asked.path["app"]))

    async def put_app(self, asked: Asked) -> Reply:
        name = asked.path["app"]
        return _tagged(
            await self._operations.put_app(asked.admin, name, asked.body, asked.if_match)
        )

    async def change_app(self, asked: Asked) -> Reply:
        name = asked.path["app"]
        return _tagged(
            await self._operations.change_app(asked.admin, name, asked.body, asked.if_match)
        )

    async def delete_app(self, asked: Asked) -> Reply:
        await self._operations.delete_app(asked.admin, asked.path["app"], asked.if_match)
        return Reply(status=204)

    async def lanes(self, asked: Asked) -> Reply:
        return Reply(self._views().lanes(self._runtime))

    async def lane(self, asked: Asked) -> Reply:
        return Reply(self._views().lane(self._runtime, asked.path["lane"]))

    async def change_lane(self, asked: Asked) -> Reply:
        return Reply(
            await self._operations.change_lane(asked.admin, asked.path["lane"], asked.body)
        )

    async def engines(self, asked: Asked) -> Reply:
        return Reply(self._views().engines(self._runtime))

    async def engine(self, asked: Asked) -> Reply:
        path = asked.path
        return Reply(self._views().engine(self._runtime, path["lane"], path["engine"]))

    async def change_engine(self, asked: Asked) -> Reply:
        lane, name = asked.path["lane"], asked.path["engine"]
        return Reply(await self._operations.change_engine(asked.admin, lane, name, asked.body))

    # Changes

    async def changes(self, asked: Asked) -> Reply:
        changes, site = self._runtime.changes, self._runtime.config.admin.site
        if changes is None:
            return Reply(shapes.State(site, 0, False, [], []))
        problems = changes.effective.problems.items()
        return Reply(
            shapes.State(
                site=site,
                version=changes.overlay.version,
                allowed=True,
                changed=sorted(" ".join(of) for of in changes.overlay.objects()),
                problems=[shapes.Problem(" ".join(of), told) for of, told in problems],
            )
        )

    async def audit(self, asked: Asked) -> Reply:
        limit = _number(asked, "limit", 100, 1, _MOST_ENTRIES)
        before = _number(asked, "before", 0, 1, 2**53) if "before" in asked.query else None
        found = await self._log.log(before=before, limit=limit)
        entries = [
            shapes.AuditEntry(
                version=line.version,
                at=datetime.fromtimestamp(line.at_ms / 1000, UTC).isoformat(
                    timespec="milliseconds"
                ),
                **msgspec.json.decode(line.entry),
            )
            for line in found
        ]
        return Reply(shapes.Audit(entries, found[-1].version if len(found) == limit else None))

    # Usage

    async def usage(self, asked: Asked) -> Reply:
        pages = self._pages(asked)

        async def lines() -> AsyncIterator[bytes]:
            async for page in pages:
                yield b"".join(encode_record(record) + b"\n" for record in page)

        return Reply(lines=lines())

    async def usage_sums(self, asked: Asked) -> Reply:
        sums = Sums()
        async for page in self._pages(asked):
            sums.add(page)
        return Reply(shapes.UsageSums(sums.by_tenant()))

    def _pages(self, asked: Asked) -> AsyncIterator[list[UsageRecord]]:
        if self._runtime.config.usage is None:
            raise Conflict("no usage records are kept: the configuration has no section 'usage'")
        since, until = (_moment(asked, name) for name in ("since", "until"))
        tenant = asked.query.get("tenant", "")

        async def pages() -> AsyncIterator[list[UsageRecord]]:
            for pool in self._runtime.pools:
                async for page in UsageReader(self._runtime.link, pool).between(since, until):
                    yield [r for r in page if tenant in ("", r.tenant)]

        return pages()

    def _views(self) -> Views:
        return Views.of(self._runtime)


def _moment(asked: Asked, name: str) -> int | None:
    try:
        return milliseconds(asked.query.get(name))
    except ValueError as error:
        raise Invalid([f"{name}: {error}"]) from None


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")


def _tagged(shape: Any) -> Reply:
    return Reply(shape, etag=etag(shape))


def _number(asked: Asked, name: str, usual: int, least: int, most: int) -> int:
    text = asked.query.get(name)
    if text is None:
        return usual
    if not text.isascii() or not text.isdigit() or not least <= int(text[:20]) <= most:
        raise Invalid([f"{name}: expected {least} to {most}, got {text[:40]!r}"])
    return int(text)
