"""Makes changes for an operator: checks them, writes them with a line of the audit log."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import msgspec
import structlog

from fairgate.admin import shapes
from fairgate.admin.access import Admin
from fairgate.admin.views import Views, etag
from fairgate.changes.live import Change, LiveChanges
from fairgate.changes.overlay import Entry, Fields, KeyEntry, Object, encode, joined
from fairgate.config import Config, shape
from fairgate.config.base import Name
from fairgate.errors import Conflict, Forbidden, Invalid, NotFound, PreconditionFailed
from fairgate.runtime import Runtime

log = structlog.get_logger("fairgate.audit")

Body = Mapping[str, Any]
_Show = Callable[[Views], Any]


def new_key() -> tuple[str, str]:
    """The text of a new key, with 256 random bits, and what it is called unless named."""
    name = f"fg_{secrets.token_hex(4)}"
    return f"{name}_{secrets.token_urlsafe(32)}", name


class Operations:
    """Changes of what is in force, on all gateways of the site.

    Each method raises ``Forbidden`` where the configuration allows no changes, ``NotFound``,
    ``Conflict``, ``Invalid`` with each field and value, ``PreconditionFailed`` where ``if_match``
    names another state of the object, and ``StoreError``. Cancelled: the change may have been made.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    # Tenants

    async def create_tenant(self, admin: Admin, body: Body) -> shapes.Tenant:
        """A new tenant without keys."""
        _known_fields(body, shapes.NewTenant)
        name, patch = _name(body.get("name")), {k: v for k, v in body.items() if k != "name"}

        def decide(views: Views) -> Fields:
            if _is_there(lambda: views.tenant(name)):
                raise Conflict(f"a tenant is named {name!r} already", param="name")
            return {f"tenant/{name}": encode(Entry(patch=patch, fresh=True))}

        of = ("tenant", name)
        await self._make(admin, "tenant.create", of, decide, lambda v: v.tenant(name))
        return Views.of(self._runtime).tenant(name)

    async def change_tenant(
        self, admin: Admin, name: str, patch: Body, if_match: str = ""
    ) -> shapes.Tenant:
        """Apply a merge patch of the fields of :class:`~fairgate.admin.shapes.TenantTerms`."""
        _known_fields(patch, shapes.TenantTerms)
        of = ("tenant", name)
        await self._patch(admin, of, patch, lambda v: v.tenant(name), if_match)
        return Views.of(self._runtime).tenant(name)

    async def delete_tenant(self, admin: Admin, name: str, if_match: str = "") -> None:
        """With all its keys. Its requests in line are refused, those that run go on."""

        def decide(views: Views) -> Fields:
            if self._runtime.config.anonymous == name:
                raise Conflict(f"{name!r} is the tenant of requests without a key")
            changes = self._changes()
            own = changes.overlay.keys.get(name, {})
            gone = {f"key/{digest}": None for digest in own}
            known = name in changes.base.tenants
            return {f"tenant/{name}": encode(Entry(gone=True)) if known else None, **gone}

        of = ("tenant", name)
        await self._make(admin, "tenant.delete", of, decide, lambda v: v.tenant(name), if_match)

    # Keys

    async def create_key(self, admin: Admin, tenant: str, body: Body) -> shapes.CreatedKey:
        """A new key; its text is in the answer and nowhere else."""
        asked: shapes.NewKey = _fitted(body, shapes.NewKey)
        text, usual_name = new_key()
        digest = sha256(text.encode()).hexdigest()
        name = asked.name or usual_name

        def decide(views: Views) -> Fields:
            views.tenant(tenant)
            entry = KeyEntry(tenant, name, asked.user, asked.apps, time.time())
            return {f"key/{digest}": encode(entry)}

        def show(views: Views) -> Any:
            return next((k for k in views.keys(tenant).keys if k.id == digest[:12]), None)

        await self._make(admin, "key.create", ("tenant", tenant), decide, show)
        return shapes.CreatedKey(text, digest[:12], tenant, name, asked.user, asked.apps)

    async def revoke_key(self, admin: Admin, tenant: str, key_id: str) -> None:
        """Its requests in line are refused, those that run go on."""

        def decide(views: Views) -> Fields:
            digest = views.key(tenant, key_id).sha256
            base = self._changes().base.tenants.get(tenant)
            in_file = base is not None and any(key.sha256 == digest for key in base.keys)
            gone = encode(KeyEntry(tenant, gone=True)) if in_file else None
            return {f"key/{digest}": gone}

        def show(views: Views) -> Any:
            return next((k for k in views.keys(tenant).keys if k.id == key_id), None)

        await self._make(admin, "key.revoke", ("tenant", tenant), decide, show)

    # Apps

    async def put_app(self, admin: Admin, name: str, body: Body, if_match: str = "") -> shapes.App:
        """Create an app, or say all of it anew."""
        _name(name)
        _known_fields(body, shapes.AppTerms)
        entry = encode(Entry(patch=dict(body), fresh=True))
        await self._make(
            admin, "app.put", ("app", name), lambda _: {f"app/{name}": entry},
            lambda v: v.app(name), if_match,
        )  # fmt: skip
        return Views.of(self._runtime).app(name)

    async def change_app(
        self, admin: Admin, name: str, patch: Body, if_match: str = ""
    ) -> shapes.App:
        """Apply a merge patch."""
        _known_fields(patch, shapes.AppTerms)
        await self._patch(admin, ("app", name), patch, lambda v: v.app(name), if_match)
        return Views.of(self._runtime).app(name)

    async def delete_app(self, admin: Admin, name: str, if_match: str = "") -> None:
        """One that no tenant and no key names."""

        def decide(views: Views) -> Fields:
            config, base = self._runtime.config, self._changes().base
            if len(config.apps) == 1:
                raise Conflict("it is the only app, and there must be one")
            if user := _user_of_app(config, name):
                raise Conflict(f"the tenant {user!r} names this app")
            return {f"app/{name}": encode(Entry(gone=True)) if name in base.apps else None}

        of = ("app", name)
        await self._make(admin, "app.delete", of, decide, lambda v: v.app(name), if_match)

    # Lanes and engines

    async def change_lane(
        self, admin: Admin, name: str, patch: Body, if_match: str = ""
    ) -> shapes.Lane:
        """Apply a merge patch of price, headroom and queue."""

        def show(views: Views) -> Any:
            lane = msgspec.to_builtins(views.lane(self._runtime, name))
            return {field: lane[field] for field in ("name", "price", "headroom", "queue")}

        await self._patch(admin, ("lane", name), patch, show, if_match)
        return Views.of(self._runtime).lane(self._runtime, name)

    async def change_engine(
        self, admin: Admin, lane: str, name: str, patch: Body, if_match: str = ""
    ) -> shapes.Engine:
        """Apply a merge patch: drain it, or say how many sequences it may run.

        A drained engine gets no new requests, and those that it runs end by themselves. The limit
        is that of the ledger; vLLM's own ``--max-num-seqs`` stays as it was started with.
        """

        _known_fields(patch, shapes.EnginePatch)
        show = self._show_engine(lane, name)
        await self._patch(admin, ("engine", f"{lane}/{name}"), patch, show, if_match)
        return Views.of(self._runtime).engine(self._runtime, lane, name)

    async def add_engine(self, admin: Admin, body: Body) -> shapes.Engine:
        """A server that others run, where the file allows one; or one of the file again."""
        _known_fields(body, shapes.NewEngine)
        lane, name = (_name(body.get(field), field) for field in ("lane", "name"))
        patch = {k: v for k, v in body.items() if k not in ("lane", "name")}
        show = self._show_engine(lane, name)

        def decide(views: Views) -> Fields:
            views.lane(self._runtime, lane)
            if _is_there(lambda: show(views)):
                raise Conflict(f"an engine of {lane!r} is named {name!r} already", param="name")
            if not patch and name in self._changes().base_engines(lane):
                return {f"engine/{lane}/{name}": None}
            return {f"engine/{lane}/{name}": encode(Entry(patch=patch, fresh=True))}

        await self._make(admin, "engine.add", ("engine", f"{lane}/{name}"), decide, show)
        return Views.of(self._runtime).engine(self._runtime, lane, name)

    async def remove_engine(self, admin: Admin, lane: str, name: str) -> None:
        """It gets no new requests, and goes once those that it runs have ended."""
        show = self._show_engine(lane, name)

        def decide(views: Views) -> Fields:
            told = views.engine(self._runtime, lane, name)
            if told.type == "app":
                raise Conflict("it is the app that fairgate is mounted in")
            if len([e for e in views.engines(self._runtime).engines if e.lane == lane]) == 1:
                raise Conflict(f"it is the only engine of {lane!r}; drain it instead")
            of_file = name in self._changes().base_engines(lane)
            return {f"engine/{lane}/{name}": encode(Entry(gone=True)) if of_file else None}

        await self._make(admin, "engine.delete", ("engine", f"{lane}/{name}"), decide, show)

    def _show_engine(self, lane: str, name: str) -> _Show:
        def show(views: Views) -> Any:
            engine = msgspec.to_builtins(views.engine(self._runtime, lane, name))
            fields = ("name", "lane", "type", "url", "drained", "max_num_seqs")
            return {field: engine[field] for field in fields}

        return show

    # How a change is made

    def _changes(self) -> LiveChanges:
        changes = self._runtime.changes
        if changes is None:
            raise Forbidden("the configuration allows no changes", code="changes_forbidden")
        return changes

    async def _patch(
        self, admin: Admin, of: Object, patch: Body, show: _Show, if_match: str
    ) -> None:
        field = "/".join(of)

        def decide(views: Views) -> Fields:
            show(views)
            entry = self._changes().overlay.entries.get(of, Entry())
            changed = msgspec.structs.replace(entry, patch=joined(entry.patch, patch))
            return {field: encode(changed)}

        await self._make(admin, f"{of[0]}.change", of, decide, show, if_match)

    async def _make(
        self,
        admin: Admin,
        action: str,
        of: Object,
        decide: Callable[[Views], Fields],
        show: _Show,
        if_match: str = "",
    ) -> None:
        """Change the fields that ``decide`` names; what ``show`` gives is logged, and compared."""
        changes = self._changes()
        told: dict[str, Any] = {}

        def change() -> Change | None:
            views = Views.of(self._runtime)
            before = _shown(show, views)
            if if_match not in ("", "*") and if_match != etag(before):
                raise PreconditionFailed(f"{of[0]} {of[1]!r} changed meanwhile", param="if-match")
            if before is None and action.endswith((".delete", ".revoke")):
                show(views)  # says what is missing
            fields = decide(views)
            preview, overlay = changes.preview(fields)
            if problems := preview.problems.get(of):
                raise Invalid(problems)
            after = _shown(show, Views(changes.base, preview.config, overlay))
            if msgspec.to_builtins(before) == msgspec.to_builtins(after):
                return None
            told.update(
                by=shapes.Who(admin.key_id, admin.name),
                action=action,
                object=" ".join(of),
                before=before,
                after=after,
            )
            return Change(fields, msgspec.json.encode(told))

        if await changes.change(change):
            log.info("changed", version=changes.overlay.version, **msgspec.to_builtins(told))


def _shown(show: _Show, views: Views) -> Any:
    try:
        return show(views)
    except NotFound:
        return None


def _is_there(look: Callable[[], object]) -> bool:
    try:
        look()
    except NotFound:
        return False
    return True


def _user_of_app(config: Config, app: str) -> str | None:
    """A tenant that names ``app``, itself or in a key."""
    for name, tenant in config.tenants.items():
        if app in tenant.apps or any(app in (key.apps or ()) for key in tenant.keys):
            return name
    return None


def _name(name: Any, field: str = "name") -> str:
    _, problems = shape.fit(name, Name)
    if problems:
        raise Invalid([f"{field}: {problems[0]}"])
    return str(name)


def _known_fields(body: Body, kind: type) -> None:
    """Raise ``Invalid`` for fields that ``kind`` has not; what they hold is checked later."""
    fields = kind.__struct_fields__  # type: ignore[attr-defined]
    problems = [
        f"{name}: unknown field{shape.did_you_mean(name, fields)}; expected one of "
        + ", ".join(fields)
        for name in body
        if name not in fields
    ]
    if problems:
        raise Invalid(problems)


def _fitted(body: Body, kind: type[Any]) -> Any:
    fitted, problems = shape.fit(dict(body), kind)
    if problems:
        raise Invalid(problems)
    return msgspec.convert(fitted, kind)
