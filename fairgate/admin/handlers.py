"""What the admin API's routes do, over one running gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from fairgate.admin import shapes
from fairgate.admin.access import Access
from fairgate.admin.calls import PREFIX, Asked, Reply
from fairgate.admin.operations import Operations
from fairgate.admin.views import Views, etag
from fairgate.billing.reader import UsageReader
from fairgate.billing.records import UsageRecord, milliseconds
from fairgate.billing.records import encode as encode_record
from fairgate.billing.sums import Sums
from fairgate.changes.store import ChangeStore
from fairgate.errors import Conflict, Invalid
from fairgate.runtime import Runtime

MOST_TENANTS = 1000
MOST_ENTRIES = 1000


class Handlers:
    """One method for each route."""

    def __init__(self, runtime: Runtime, access: Access) -> None:
        self._runtime = runtime
        self._access = access
        self._operations = Operations(runtime)
        self._log = ChangeStore(runtime.link, runtime.config.admin.site)

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
        limit = _number(asked, "limit", 100, 1, MOST_TENANTS)
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

    async def add_engine(self, asked: Asked) -> Reply:
        made = await self._operations.add_engine(asked.admin, asked.body)
        place = (("location", f"{PREFIX}/engines/{made.lane}/{made.name}"),)
        return Reply(made, status=201, headers=place)

    async def remove_engine(self, asked: Asked) -> Reply:
        path = asked.path
        await self._operations.remove_engine(asked.admin, path["lane"], path["engine"])
        return Reply(status=204)

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
        limit = _number(asked, "limit", 100, 1, MOST_ENTRIES)
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
            for name, pool in self._runtime.pools.items():
                async for page in UsageReader(pool.link, name).between(since, until):
                    yield [r for r in page if tenant in ("", r.tenant)]

        return pages()

    def _views(self) -> Views:
        return Views.of(self._runtime)


def _moment(asked: Asked, name: str) -> int | None:
    try:
        return milliseconds(asked.query.get(name))
    except ValueError as error:
        raise Invalid([f"{name}: {error}"]) from None


def _tagged(shape: Any) -> Reply:
    return Reply(shape, etag=etag(shape))


def _number(asked: Asked, name: str, usual: int, least: int, most: int) -> int:
    text = asked.query.get(name)
    if text is None:
        return usual
    if not text.isascii() or not text.isdigit() or not least <= int(text[:20]) <= most:
        raise Invalid([f"{name}: expected {least} to {most}, got {text[:40]!r}"])
    return int(text)
