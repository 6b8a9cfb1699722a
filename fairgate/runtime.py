"""All that a gateway process shares between requests: configuration, identity, pools, metrics."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import structlog

from fairgate.addresses import Addresses
from fairgate.admission.embedded import EmbeddedStore
from fairgate.admission.link import Link
from fairgate.admission.locating import locator_of
from fairgate.admission.vetting import vet_store
from fairgate.billing.files import UsageFiles
from fairgate.billing.reader import UsageReader
from fairgate.changes.live import LiveChanges
from fairgate.changes.overlay import Object
from fairgate.changes.store import ChangeStore
from fairgate.config import AppEngine as AppEngineSettings
from fairgate.config import Config, Lane
from fairgate.config import Engine as EngineSettings
from fairgate.config.admin import UsageRecords
from fairgate.config.rules import is_auto
from fairgate.engines.app import AppEngine
from fairgate.engines.base import Engine
from fairgate.engines.build import AppEngineFactory, build_engine
from fairgate.engines.http_client import HttpClient
from fairgate.errors import EngineStartError, NotFound
from fairgate.guessing import FailedKeys
from fairgate.identity import Identity, revoked_keys
from fairgate.judging import Judging
from fairgate.metrics import Metrics
from fairgate.pool import Pool
from fairgate.routing.base import RouteRequest
from fairgate.routing.knob import asked_quality
from fairgate.routing.metrics import RoutingMetrics
from fairgate.routing.routed import Routed
from fairgate.telemetry import LogRequest, log_structured
from fairgate.tracing.setup import Begin, Tracer
from fairgate.within import Deadlines

EMBEDDED = "embedded"

log = structlog.get_logger("fairgate.engines")

Headers = Iterable[tuple[bytes, bytes]]


class Runtime:
    """Made by :meth:`open`, and in force until that context ends."""

    def __init__(
        self,
        config: Config,
        *,
        gateway: str = "",
        log_dir: Path | None = None,
        app_engine: AppEngineFactory | None = None,
    ) -> None:
        self.config = config
        self._log_dir = log_dir or Path.cwd()
        self._app_engine = app_engine
        self.identity = Identity(config)
        self.addresses = Addresses(config.server)
        self.failed_keys = FailedKeys(config.server.failed_keys_per_minute, self.addresses)
        self.metrics = Metrics()
        self.log_request: LogRequest = log_structured
        self.begin_trace: Begin | None = None
        """``None``: requests are not traced."""
        self.routing_metrics = RoutingMetrics(self.metrics.registry)
        self.gateway = gateway or f"gw-{secrets.token_hex(4)}"
        self.draining = False
        self.deadlines = Deadlines()
        """Of requests."""
        self.pools: dict[str, Pool] = {}
        self.http: HttpClient
        self.judging: Judging
        self.link: Link
        self.changes: LiveChanges | None = None
        """Of the configuration while it runs; ``None``: it takes part in none."""
        self.engines: list[Engine] = []
        self._coming: dict[Engine, asyncio.Task[None]] = {}
        """Engines that were added and still start."""
        self._going: set[asyncio.Task[None]] = set()
        """Ends of engines that were removed."""
        self._numbers = itertools.count()
        self._any_model = _is_one_app(config)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        config: Config,
        *,
        log_dir: Path | None = None,
        app_engine: AppEngineFactory | None = None,
    ) -> AsyncIterator[Runtime]:
        """Start the store, the engines' monitors and the pools; end them all on the way out.

        Spawned engines are not waited for: a lane opens when its first engine answers.
        ``app_engine`` makes the engines of ``type: app``; without it their capacity is what
        ``config`` says. Raises ``StoreError`` when the store is away and ``on_failure`` is
        ``closed``, and for one that can never serve; ``ArtifactError`` for a router's artefact that
        cannot be read; ``ConfigError`` for tracing without OpenTelemetry. Cancelled: all that was
        started is ended before the cancellation goes on.
        """
        runtime = cls(config, log_dir=log_dir, app_engine=app_engine)
        async with AsyncExitStack() as stack:
            runtime._trace(stack)
            url = await store_url(config, stack)
            await runtime._connect(url, stack)
            for name in config.pools:
                runtime.pools[name] = await runtime._build_pool(name, url, stack)
            for files in runtime._usage_files(config.usage):
                stack.push_async_callback(files.stop)  # after the pools, whose last words it writes
                files.start()
            for pool in runtime.pools.values():
                stack.push_async_callback(pool.stop)
                await pool.start()
            stack.push_async_callback(runtime.stop_engines)
            await runtime._follow_changes(stack)
            yield runtime

    def _trace(self, stack: AsyncExitStack) -> None:
        if self.config.tracing is not None:
            tracer = Tracer(self.config.tracing, self.gateway)
            stack.push_async_callback(tracer.stop)
            self.begin_trace = tracer.begin

    async def _connect(self, url: str, stack: AsyncExitStack) -> None:
        """To the store, for what is of no pool, and to engines."""
        config = self.config
        tag = f"admin:{config.admin.site}"
        self.link = Link(locator_of(url, tag), timeout_s=config.store.timeout_s)
        stack.push_async_callback(self.link.close)
        client = HttpClient(
            connect_s=config.timeouts.connect_s, max_answer_bytes=config.server.max_answer_bytes
        )
        self.http = await stack.enter_async_context(client)
        self.judging = Judging(self.http.session)
        stack.push_async_callback(self.judging.stop)

    async def _build_pool(self, name: str, url: str, stack: AsyncExitStack) -> Pool:
        """The pool with its engines, nothing of it started."""
        config = self.config
        engines = {
            lane: [self._build_engine(lane, *of, spec) for of in spec.engines_of(lane).items()]
            for lane, spec in config.pools[name].lanes.items()
        }
        self.engines += [engine for members in engines.values() for engine in members]
        locator = locator_of(url, name)
        await vet_store(locator, timeout_s=config.store.timeout_s)
        link = Link(locator, timeout_s=config.store.timeout_s)
        stack.push_async_callback(link.close)
        return Pool(
            name, config, engines, link=link, store_url=url, gateway=self.gateway,
            metrics=self.routing_metrics, fleet=self,
        )  # fmt: skip

    def _build_engine(self, lane: str, name: str, settings: EngineSettings, spec: Lane) -> Engine:
        named = msgspec.structs.replace(settings, name=name)
        make_app = self._app_engine or AppEngine
        return build_engine(lane, 0, spec, named, self.http, self._log_dir, make_app)

    def add_engine(self, lane: str, name: str, spec: Lane, settings: EngineSettings) -> Engine:
        """An engine that joins while the gateway runs; it is started in the background."""
        engine = self._build_engine(lane, name, settings, spec)
        self.engines.append(engine)
        task = asyncio.create_task(_start(engine), name=f"fairgate-start-{name}")
        self._coming[engine] = task
        task.add_done_callback(lambda _: self._coming.pop(engine))
        return engine

    def remove_engine(self, engine: Engine) -> None:
        """One that left, and runs nothing any more; it is stopped in the background."""
        task = asyncio.create_task(self._end(engine), name=f"fairgate-end-{engine.name}")
        self._going.add(task)
        task.add_done_callback(self._going.discard)

    async def _end(self, engine: Engine) -> None:
        if (start := self._coming.get(engine)) is not None:
            start.cancel()
            await asyncio.wait({start})
        await engine.stop()
        self.engines.remove(engine)

    async def stop_engines(self) -> None:
        """Stop all engines, also those that just start or end. Idempotent."""
        for start in self._coming.values():
            start.cancel()
        await asyncio.gather(*self._coming.values(), *self._going, return_exceptions=True)
        await asyncio.gather(*(engine.stop() for engine in self.engines))

    async def _follow_changes(self, stack: AsyncExitStack) -> None:
        admin = self.config.admin
        if admin.keys and admin.changes:
            store = ChangeStore(self.link, admin.site)
            self.changes = LiveChanges(self.config, store, self._take_up)
            stack.push_async_callback(self.changes.stop)
            await self.changes.start()

    def _usage_files(self, settings: UsageRecords | None) -> list[UsageFiles]:
        if settings is None or settings.folder is None:
            return []
        folder = Path(settings.folder)
        readers = (UsageReader(pool.link, name) for name, pool in self.pools.items())
        return [UsageFiles(reader, folder, settings.max_bytes) for reader in readers]

    def number(self) -> str:
        """A request id that is unique over all replicas and restarts."""
        return f"{self.gateway}-{next(self._numbers)}"

    def apply(self, config: Config) -> None:
        """Take up a reloaded file, under the changes in force; requests under way keep what they
        began with."""
        if self.changes is not None:
            self.changes.rebase(config)
        else:
            self._take_up(config, None)

    def _take_up(self, config: Config, concerned: Collection[Object] | None) -> None:
        """Work with ``config``, in which the objects ``concerned`` changed, or anything."""
        old, self.config = self.config, config
        kinds = {kind for kind, _ in concerned} if concerned is not None else {"app"}
        tenants = [name for kind, name in concerned or () if kind == "tenant"]
        if "app" in kinds:
            self.identity = Identity(config)
            tenants = list(old.tenants)
        else:
            self.identity.take_up(config, tenants)
        revoked = revoked_keys(old, config, tenants)
        for pool in self.pools.values():
            pool.apply(config)
            if revoked:
                pool.refuse_keys(revoked)

    def closed_lanes(self) -> list[str]:
        """Lanes without an engine that is up, but for those that were drained."""
        return [
            lane
            for pool in self.pools.values()
            for lane in pool.lanes
            if pool.statistics(lane).engines_up == 0 and not pool.is_drained(lane)
        ]

    def shut(self) -> bool:
        """A pool refuses everything, since its store is away."""
        return any(p.on_failure == "closed" and p.admission.away for p in self.pools.values())

    def lane(self, name: str | None) -> tuple[Pool, tuple[str, ...]]:
        """The lane ``name`` and its pool; ``None``: the first one. Raises ``ValueError``."""
        for pool in self.pools.values():
            for lane in pool.lanes:
                if name is None or lane == name:
                    return pool, (lane,)
        raise ValueError(f"no lane is named {name!r}")

    def find(self, request: RouteRequest, fields: Headers) -> tuple[Pool, Routed]:
        """Pool and lanes for ``request``, which came with the header ``fields``.

        Raises ``NotFound`` for an unknown model and ``BadRequest`` for a quality that is none.
        Which models a mounted app serves is its own affair: where it is the only lane, it gets
        all of them.
        """
        model = request.call.model
        for pool in self.pools.values():
            if pool.serves(model):
                return pool, pool.route(model, request)
        if not (self._any_model or is_auto(model)):
            shown = repr(model)[:80]
            raise NotFound(
                f"the model {shown} does not exist", code="model_not_found", param="model"
            )
        pool = next(iter(self.pools.values()))
        return pool, pool.route(None, self._with_terms(request, pool, fields))

    def _with_terms(self, request: RouteRequest, pool: Pool, fields: Headers) -> RouteRequest:
        """``request`` with what it asks for, else its tenant, else its pool's configuration."""
        model = request.call.model
        quality = asked_quality(model if is_auto(model) else None, fields)
        tenant = self.config.tenants.get(request.tenant)
        routing = self.config.pools[pool.name].routing
        if quality is None and tenant is not None:
            quality = tenant.quality
        drop = tenant.drop if tenant is not None and quality is None else None
        if quality is None and drop is None and routing is not None:
            quality = routing.quality
        satisfaction = tenant.satisfaction if tenant is not None else None
        if satisfaction is None and routing is not None:
            satisfaction = routing.satisfaction
        return replace(request, quality=quality, drop=drop, satisfaction=satisfaction)


def _is_one_app(config: Config) -> bool:
    lanes = [lane for pool in config.pools.values() for lane in pool.lanes.values()]
    return len(lanes) == 1 and all(isinstance(e, AppEngineSettings) for e in lanes[0].engines)


async def _start(engine: Engine) -> None:
    try:
        await engine.start()
    except EngineStartError as error:
        log.error("an engine that was added does not start", engine=engine.name, error=str(error))


async def store_url(config: Config, stack: AsyncExitStack) -> str:
    """Where the store is; an embedded one is started, and stopped with ``stack``."""
    if config.store.url != EMBEDDED:
        return config.store.url
    store = EmbeddedStore()
    stack.push_async_callback(store.stop)
    await store.start()
    return store.url
