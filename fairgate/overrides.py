"""What the command line changes of a configuration: engines, policy, address."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import aiohttp
from msgspec.structs import replace

from fairgate.config import (
    Config,
    HttpEngine,
    Lane,
    Pool,
    Preset,
    SimulatedEngine,
    Tenant,
)
from fairgate.config.rules import problems
from fairgate.config.server import Server
from fairgate.engines.base import EngineStatus
from fairgate.engines.probe import probe
from fairgate.errors import ConfigError

SIMULATED = "sim"
DEFAULT_TENANT = "default"

_PATIENCE_S = 30.0


def without_file() -> Config:
    """The configuration where no file is given: one tenant, who needs no key."""
    return Config(
        pools={"main": Pool(lanes={})}, tenants={DEFAULT_TENANT: Tenant()}, anonymous=DEFAULT_TENANT
    )


def with_policy(config: Config, preset: Preset) -> Config:
    """Every pool under ``preset``; what else its policy section says is dropped."""
    pools = {name: replace(pool, policy=preset) for name, pool in config.pools.items()}
    return replace(config, pools=pools)


def with_address(config: Config, host: str | None, port: int | None) -> Config:
    """Another socket for the gateway."""
    server: Server = config.server
    server = replace(
        server,
        host=server.host if host is None else host,
        port=server.port if port is None else port,
    )
    return replace(config, server=server)


def with_simulated_engines(config: Config) -> Config:
    """The same lanes, each on one simulated engine."""
    pools = {
        name: replace(pool, lanes={n: _simulated(lane) for n, lane in pool.lanes.items()})
        for name, pool in config.pools.items()
    }
    return replace(config, pools=pools)


def _simulated(lane: Lane) -> Lane:
    first = lane.engines[0]
    known = {
        field: value
        for field in ("max_num_seqs", "kv_cache_tokens")
        if (value := getattr(first, field))
    }
    return replace(lane, engines=(SimulatedEngine(**known),), tokenizer="ratio")


async def with_running_engines(config: Config, urls: Sequence[str]) -> Config:
    """Engines that others run, in lanes named by the models they list.

    Lanes of ``config`` that serve one of those models keep their price, queue and name. Waits up
    to half a minute for engines that are still starting. Raises :class:`ConfigError` that names the
    engine which does not answer or lists no model.
    """
    if wrong := [f"--engine: expected an http(s) address, got {u!r}" for u in urls if not _ok(u)]:
        raise ConfigError(wrong)
    async with aiohttp.ClientSession() as session:
        bases = [url.rstrip("/").removesuffix("/v1") for url in urls]
        found = await asyncio.gather(*(_look(session, url) for url in bases))
    lanes: dict[str, Lane] = {}
    for url, status in zip(bases, found, strict=True):
        if not status.models:
            raise ConfigError([f"--engine {url}: {status.detail or 'it lists no models'}"])
        _add(lanes, status, HttpEngine(url=url), _known_lanes(config))
    pool_name = next(iter(config.pools), "main")
    pool = replace(config.pools[pool_name], lanes=lanes)
    changed = replace(config, pools={pool_name: pool})
    if wrong := problems(changed):
        raise ConfigError(wrong, source="--engine")
    return changed


def _ok(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname)


async def _look(session: aiohttp.ClientSession, url: str) -> EngineStatus:
    loop = asyncio.get_running_loop()
    until = loop.time() + _PATIENCE_S
    while True:
        status = await probe(session, url, {})
        if status.up or loop.time() > until:
            return status
        await asyncio.sleep(0.5)


def _known_lanes(config: Config) -> dict[str, tuple[str, Lane]]:
    return {
        model: (name, lane)
        for pool in config.pools.values()
        for name, lane in pool.lanes.items()
        for model in (name, lane.model)
        if model
    }


def _add(
    lanes: dict[str, Lane],
    status: EngineStatus,
    engine: HttpEngine,
    known: dict[str, tuple[str, Lane]],
) -> None:
    model = status.models[0]
    name, lane = known.get(model, (lane_name(model), Lane(engines=())))
    lane = lanes.get(name) or replace(lane, engines=(), model=model)
    lanes[name] = replace(lane, engines=(*lane.engines, engine), tokenizer="ratio")


def lane_name(model: str) -> str:
    """A lane's name for a model's: its last path part, with nothing a lane may not be called."""
    last = model.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._")[:64] or "model"
