"""Looks at what is in force: the objects of the configuration in the shapes of the API."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from fairgate import config as conf
from fairgate.admin import shapes
from fairgate.changes.overlay import Overlay
from fairgate.config import Config
from fairgate.engines.base import EngineStatus
from fairgate.errors import NotFound
from fairgate.runtime import Runtime

_NOT_SEEN = EngineStatus(up=False, detail="not probed yet")

_encode = msgspec.json.Encoder(order="deterministic").encode


def etag(shape: object) -> str:
    """Names this state of an object."""
    return f'"{hashlib.blake2b(_encode(shape), digest_size=12).hexdigest()}"'


class Views:
    """Objects of ``config`` under ``overlay``, which is of the file's ``base``."""

    def __init__(self, base: Config, config: Config, overlay: Overlay) -> None:
        self._base = base
        self._config = config
        self._overlay = overlay

    @classmethod
    def of(cls, runtime: Runtime) -> Views:
        """What is in force."""
        changes = runtime.changes
        if changes is None:
            return cls(runtime.config, runtime.config, Overlay())
        return cls(changes.base, runtime.config, changes.overlay)

    # Tenants and their keys

    def tenant(self, name: str) -> shapes.Tenant:
        """Raises ``NotFound``."""
        tenant = self._tenant(name)
        return shapes.Tenant(
            name=name,
            weight=tenant.weight,
            apps=tenant.apps,
            limits=tenant.limits,
            user_limits=tenant.user_limits,
            user_weights=tenant.user_weights,
            quality=tenant.quality,
            satisfaction=tenant.satisfaction,
            keys=len(tenant.keys),
            source=self._source("tenant", name, known=name in self._base.tenants),
        )

    def tenants(self, after: str, limit: int, search: str) -> shapes.Tenants:
        """At most ``limit`` behind the name ``after``, of those with ``search`` in their names."""
        names = sorted(n for n in self._config.tenants if search in n)
        shown = [name for name in names if name > after][: limit + 1]
        return shapes.Tenants(
            tenants=[self.tenant(name) for name in shown[:limit]],
            total=len(names),
            next=shown[limit - 1] if len(shown) > limit else None,
        )

    def keys(self, tenant: str) -> shapes.Keys:
        """Raises ``NotFound``."""
        found = [self._key(tenant, key) for key in self._tenant(tenant).keys]
        return shapes.Keys(tenant, found)

    def key(self, tenant: str, key_id: str) -> conf.Key:
        """The key of that id. Raises ``NotFound``."""
        for key in self._tenant(tenant).keys:
            if key.sha256[:12] == key_id:
                return key
        raise _missing("key", key_id)

    def _key(self, tenant: str, key: conf.Key) -> shapes.Key:
        entry = self._overlay.keys.get(tenant, {}).get(key.sha256)
        made = datetime.fromtimestamp(entry.created, UTC) if entry else None
        return shapes.Key(
            id=key.sha256[:12],
            name=key.name,
            user=key.user,
            apps=key.apps,
            created=made.isoformat(timespec="seconds") if made else None,
            source="live" if entry else "file",
        )

    def _tenant(self, name: str) -> conf.Tenant:
        found = self._config.tenants.get(name)
        if found is None:
            raise _missing("tenant", name)
        return found

    # Apps

    def app(self, name: str) -> shapes.App:
        """Raises ``NotFound``."""
        app = self._config.apps.get(name)
        if app is None:
            raise _missing("app", name)
        source = self._source("app", name, known=name in self._base.apps)
        return shapes.App(name, app.limits, app.expected_output_tokens, source)

    def apps(self) -> shapes.Apps:
        return shapes.Apps([self.app(name) for name in self._config.apps])

    def _source(self, kind: str, name: str, *, known: bool) -> shapes.Source:
        entry = self._overlay.entries.get((kind, name))
        if entry is None:
            return "file"
        return "file+live" if known and not entry.fresh else "live"

    # Lanes and engines

    def lane(self, runtime: Runtime, name: str) -> shapes.Lane:
        """Raises ``NotFound``."""
        for pool_name, lane_name, lane in self._lanes():
            if lane_name == name:
                seen = runtime.pools[pool_name].statistics(name)
                return shapes.Lane(
                    name=name,
                    pool=pool_name,
                    model=lane.model or name,
                    price=lane.price,
                    headroom=lane.headroom,
                    queue=msgspec.structs.asdict(lane.queue),
                    engines_up=seen.engines_up,
                    limit=seen.limit,
                    running=seen.running,
                    waiting=seen.waiting,
                    source=self._source("lane", name, known=True),
                )
        raise _missing("lane", name)

    def lanes(self, runtime: Runtime) -> shapes.Lanes:
        return shapes.Lanes([self.lane(runtime, name) for _, name, _ in self._lanes()])

    def engine(self, runtime: Runtime, lane: str, name: str) -> shapes.Engine:
        """Raises ``NotFound``."""
        for engine in self._engines(runtime):
            if (engine.lane, engine.name) == (lane, name):
                return engine
        raise _missing("engine", f"{lane}/{name}")

    def engines(self, runtime: Runtime) -> shapes.Engines:
        return shapes.Engines(list(self._engines(runtime)))

    def _lanes(self) -> Iterator[tuple[str, str, conf.Lane]]:
        for pool_name, pool in self._config.pools.items():
            for lane_name, lane in pool.lanes.items():
                yield pool_name, lane_name, lane

    def _engines(self, runtime: Runtime) -> Iterator[shapes.Engine]:
        seen = {
            (lane, name): status
            for pool in runtime.pools.values()
            for lane, name, status in pool.monitor.observed()
        }
        for pool_name, lane_name, lane in self._lanes():
            for name, engine in lane.engines_of(lane_name).items():
                status = seen.get((lane_name, name), _NOT_SEEN)
                of_file = name in self._base.pools[pool_name].lanes[lane_name].engines_of(lane_name)
                yield shapes.Engine(
                    name=name,
                    lane=lane_name,
                    pool=pool_name,
                    type=str(engine.__struct_config__.tag),
                    up=status.up,
                    detail=status.detail,
                    url=engine.url if isinstance(engine, conf.HttpEngine) else None,
                    drained=engine.drained,
                    max_num_seqs=engine.max_num_seqs,
                    running=status.num_requests_running,
                    source=self._source("engine", f"{lane_name}/{name}", known=of_file),
                )


def _missing(kind: str, name: str) -> NotFound:
    return NotFound(f"no {kind} is named {name[:80]!r}", code=f"{kind}_not_found", param=kind)
