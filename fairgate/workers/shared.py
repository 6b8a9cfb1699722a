"""Makes of the whole configuration the one that workers get: others run their store and engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec.structs import replace

from fairgate.config import Config, HttpEngine, InProcessEngine, Lane
from fairgate.config import Engine as EngineSettings
from fairgate.config.rules import all_engines
from fairgate.engines.build import build_engine
from fairgate.engines.http_client import HttpClient
from fairgate.engines.process import SpawnedEngine
from fairgate.errors import ConfigError

Engines = Mapping[tuple[str, str, int], SpawnedEngine]
"""By pool, lane and place in the lane."""


def check_shareable(config: Config) -> None:
    """Raise ``ConfigError`` for engines that live in one process and so cannot be shared."""
    problems = [
        f"{path}: type 'vllm-inprocess' runs inside one process; with --workers expected 'vllm'"
        for path, engine in all_engines(config)
        if isinstance(engine, InProcessEngine)
    ]
    if problems:
        raise ConfigError(problems)


def build_spawned(config: Config, http: HttpClient, log_dir: Path) -> Engines:
    """The engines that a gateway starts, not started yet; ``http`` stays the caller's."""
    return {
        where: engine
        for where, lane, settings in _each(config)
        if isinstance(
            engine := build_engine(where[1], where[2], lane, settings, http, log_dir),
            SpawnedEngine,
        )
    }


def shared_config(config: Config, store_url: str, engines: Engines) -> Config:
    """``config``, in which the store has an address and every spawned engine its own."""

    def shared(pool: str, name: str, lane: Lane) -> Lane:
        made = tuple(
            _as_http(engine, engines.get((pool, name, i))) for i, engine in enumerate(lane.engines)
        )
        return replace(lane, engines=made)

    pools = {
        name: replace(pool, lanes={lane: shared(name, lane, v) for lane, v in pool.lanes.items()})
        for name, pool in config.pools.items()
    }
    return replace(config, pools=pools, store=replace(config.store, url=store_url))


def _as_http(settings: EngineSettings, engine: SpawnedEngine | None) -> EngineSettings:
    if engine is None:
        return settings
    return HttpEngine(
        url=engine.url,
        name=engine.name,
        max_num_seqs=settings.max_num_seqs,
        kv_cache_tokens=settings.kv_cache_tokens,
        priority=engine.priority,
        drained=settings.drained,
    )


def _each(config: Config) -> Iterator[tuple[tuple[str, str, int], Lane, EngineSettings]]:
    for pool_name, pool in config.pools.items():
        for lane_name, lane in pool.lanes.items():
            for i, engine in enumerate(lane.engines):
                yield (pool_name, lane_name, i), lane, engine
