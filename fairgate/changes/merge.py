"""Puts the overlay over the file's configuration: a valid ``Config`` out, whatever comes in.

An object of the overlay that does not fit the file any more (its app is gone, say) counts as the
file has it, and is reported; a revoked key stays revoked in any case.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from fairgate.changes.added import AddedEngine, made_of
from fairgate.changes.overlay import Entry, KeyEntry, Object, Overlay, patched
from fairgate.config import App, Config, Engine, HttpEngine, Key, Lane, Queue, Tenant, rules, shape
from fairgate.config.base import Base, Count, Headroom, Positive


class LaneTerms(Base, frozen=True):
    """What can be changed of a lane while it runs."""

    price: Positive = 1.0
    headroom: Headroom = 0.0
    queue: Queue = Queue()


class EngineTerms(Base, frozen=True):
    """What can be changed of an engine while it runs."""

    drained: bool = False
    max_num_seqs: Count | None = None
    """``None``: as the file's default is, or as the engine tells."""


@dataclass(frozen=True, slots=True)
class Effective:
    """The configuration in force, and what of the overlay does not fit it."""

    config: Config
    problems: Mapping[Object, tuple[str, ...]] = field(default_factory=dict)


def merged(base: Config, overlay: Overlay) -> Effective:
    """``base`` with all of ``overlay``."""
    return remerged(base, overlay, Effective(base), overlay.objects())


def remerged(
    base: Config, overlay: Overlay, current: Effective, concerned: Iterable[Object]
) -> Effective:
    """``current``, which was merged of ``base``, with the ``concerned`` objects merged anew."""
    objects = set(concerned)
    if any(kind == "app" for kind, _ in objects):  # tenants name them
        objects |= {of for of in overlay.objects() if of[0] == "tenant"}
    work = _Merging(base, overlay, current)
    for kind, name in sorted(objects, key=lambda of: _ORDER.get(of[0], 0)):
        work.merge(kind, name)
    return work.result()


_ORDER = {"app": 0, "tenant": 1, "lane": 2, "engine": 2}


class _Merging:
    """One merge on its way; copies what it changes."""

    def __init__(self, base: Config, overlay: Overlay, current: Effective) -> None:
        self._base = base
        self._overlay = overlay
        self._config = current.config
        self._problems = dict(current.problems)

    def result(self) -> Effective:
        return Effective(self._config, self._problems)

    def merge(self, kind: str, name: str) -> None:
        if kind == "app":
            self._app(name)
        elif kind == "tenant":
            self._tenants = self._tenants_copy()
            self._tenant(name)
        elif kind in ("lane", "engine"):
            self._problems.pop((kind, name), None)
            self._lane(kind, name)

    _tenants: dict[str, Tenant] | None = None

    def _tenants_copy(self) -> dict[str, Tenant]:
        if self._tenants is None:
            self._tenants = dict(self._config.tenants)
            self._config = replace(self._config, tenants=self._tenants)
        return self._tenants

    def _note(self, of: Object, problems: list[str]) -> None:
        if problems:
            self._problems[of] = tuple(problems)
        else:
            self._problems.pop(of, None)

    def _app(self, name: str) -> None:
        old = self._base.apps.get(name)
        app, problems = shaped(old, self._overlay.entries.get(("app", name)), App)
        self._note(("app", name), problems)
        apps = {**self._config.apps, name: app} if app else dict(self._config.apps)
        if app is None:
            apps.pop(name, None)
        self._config = replace(self._config, apps=apps)

    def _tenant(self, name: str) -> None:
        tenants = self._tenants_copy()
        old = self._base.tenants.get(name)
        entry = self._overlay.entries.get(("tenant", name))
        keys = self._overlay.keys.get(name, {})
        tenant, problems = shaped(old, entry, Tenant)
        if tenant is not None:
            own = () if entry and entry.fresh else (old.keys if old else ())
            tenant = replace(tenant, keys=_keys(own, keys))
            problems = problems or rules.tenant_problems(name, tenant, self._config)
            if problems and old is not None:
                tenant = replace(old, keys=_keys(old.keys, keys, revoked_only=True))
            elif problems:
                tenant = None
        self._note(("tenant", name), problems)
        if tenant is None:
            tenants.pop(name, None)
        else:
            tenants[name] = tenant

    def _lane(self, kind: str, of: str) -> None:
        name = of.partition("/")[0]
        pool_name = next((p for p, pool in self._base.pools.items() if name in pool.lanes), None)
        if pool_name is None:
            self._note((kind, of), [f"no lane is named '{name}'"])
            return
        lane = self._merged_lane(name, self._base.pools[pool_name].lanes[name])
        now = self._config.pools[pool_name]
        pools = {**self._config.pools, pool_name: replace(now, lanes={**now.lanes, name: lane})}
        self._config = replace(self._config, pools=pools)

    def _merged_lane(self, name: str, lane: Lane) -> Lane:
        terms, problems = shaped(
            lane_terms(lane), self._overlay.entries.get(("lane", name)), LaneTerms
        )
        self._note(("lane", name), problems)
        assert terms is not None  # noqa: S101 — lanes cannot be deleted
        return replace(
            lane,
            price=terms.price,
            headroom=terms.headroom,
            queue=terms.queue,
            engines=self._engines(name, lane),
        )

    def _engines(self, lane: str, base: Lane) -> tuple[Engine, ...]:
        """Those of the file that are not removed, in its order, and those that were added."""
        kept = {
            name: engine
            for name, told in base.engines_of(lane).items()
            if (engine := self._engine(lane, name, told)) is not None
        }
        own = tuple(kept.values())
        if len(own) < len(base.engines):  # those that are left keep the names of their places
            own = tuple(replace(engine, name=name) for name, engine in kept.items())
        urls = {engine.url.rstrip("/") for engine in own if isinstance(engine, HttpEngine)}
        added = []
        for name, entry in sorted(self._overlay.added_engines(lane).items()):
            engine, problems = self._added(name, entry, urls)
            self._note(("engine", f"{lane}/{name}"), problems)
            if engine is not None:
                urls.add(engine.url.rstrip("/"))
                added.append(engine)
        return (*own, *added)

    def _added(
        self, name: str, entry: Entry, urls: Collection[str]
    ) -> tuple[HttpEngine | None, list[str]]:
        said, problems = shaped(None, entry, AddedEngine)
        if said is None:
            return None, problems
        engine, problems = made_of(name, said, self._base.admin.engines_at)
        if engine is not None and engine.url.rstrip("/") in urls:
            return None, [f"url: the same as that of another engine of the lane: '{engine.url}'"]
        return engine, problems

    def _engine(self, lane: str, name: str, engine: Engine) -> Engine | None:
        """An engine of the file; ``None``: it was removed, or another one took its name."""
        of = ("engine", f"{lane}/{name}")
        entry = self._overlay.entries.get(of)
        if entry is None:
            return engine
        if entry.gone or entry.fresh:
            return None
        terms, problems = shaped(engine_terms(engine), entry, EngineTerms)
        self._note(of, problems)
        assert terms is not None  # noqa: S101 — the file has it
        told = terms.max_num_seqs
        if told is None:
            told = msgspec.structs.fields(engine)[_place_of_max_num_seqs(engine)].default
        return replace(engine, drained=terms.drained, max_num_seqs=told)


def _place_of_max_num_seqs(engine: Engine) -> int:
    return engine.__struct_fields__.index("max_num_seqs")


def shaped(old: Any, entry: Entry | None, kind: type[Any]) -> tuple[Any, list[str]]:
    """``old`` with the patch of ``entry`` as a ``kind``, and what is wrong with it.

    ``None`` where there is none; ``old`` where something is wrong.
    """
    if entry is None:
        return old, []
    if entry.gone or (old is None and not entry.fresh):
        return None, []
    plain = {} if entry.fresh else msgspec.json.decode(msgspec.json.encode(old))
    fitted, problems = shape.fit(patched(plain, entry.patch), kind)
    if problems:
        return old, problems
    made = msgspec.convert(fitted, kind)
    problems = rules.quantities(made)
    return (old if problems else made), problems


def lane_terms(lane: Lane) -> LaneTerms:
    """What can be changed of ``lane``."""
    return LaneTerms(price=lane.price, headroom=lane.headroom, queue=lane.queue)


def engine_terms(engine: Engine) -> EngineTerms:
    """What can be changed of ``engine``."""
    return EngineTerms(drained=engine.drained, max_num_seqs=engine.max_num_seqs)


def _keys(
    own: tuple[Key, ...], entries: Mapping[str, KeyEntry], *, revoked_only: bool = False
) -> tuple[Key, ...]:
    """The keys of the file without those that were revoked, and those that were created."""
    kept = tuple(k for k in own if not ((e := entries.get(k.sha256)) and e.gone))
    if revoked_only:
        return kept
    known = {key.sha256 for key in own}
    created = (
        Key(sha256=sha256, name=e.name, user=e.user, apps=e.apps)
        for sha256, e in entries.items()
        if not e.gone and sha256 not in known
    )
    return (*kept, *created)
