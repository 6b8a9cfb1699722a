"""The engines of a measurement: taken from a configuration file, started once for all its runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from fairgate import config
from fairgate.config import reading
from fairgate.engines import build_engine
from fairgate.engines.base import EngineStatus
from fairgate.engines.http import HttpEngine
from fairgate.engines.http_client import HttpClient
from fairgate.engines.monitor import UNTOLD_MAX_NUM_SEQS
from fairgate.engines.process import SpawnedEngine
from fairgate.errors import ConfigError, EngineStartError
from loadgen.errors import SpecError, TargetError
from loadgen.simulation.modelled import modelled, profile_of_lane

DEMO = "demo"
SIMULATED = "sim"

_DEMO_FILE = Path(__file__).parents[2] / "deploy" / "demo.yaml"
_USUAL_PROFILE = "cpu-small"
_OVER_HTTP = (config.HttpEngine, config.VllmEngine, config.SimulatedEngine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """Engines of one model that answer, as a gateway is told of them and as they are simulated."""

    model: str
    running: tuple[config.HttpEngine, ...]
    models: tuple[config.SimulatedEngine, ...]
    """Beside each running engine: its model, at the speed that the profile says."""
    context_tokens: int | None
    """Longest prompt and output that all of them take, as they tell."""

    @property
    def sequences(self) -> int:
        """That run at once."""
        return sum(engine.max_num_seqs for engine in self.models)

    def at_speed(self, speed: float) -> tuple[config.SimulatedEngine, ...]:
        """Their models, ``speed`` times as fast."""
        return tuple(replace(engine, speed=engine.speed * speed) for engine in self.models)

    @property
    def about(self) -> str:
        """In words, for the report."""
        profiles = ", ".join(sorted({engine.profile for engine in self.models}))
        return (
            f"{len(self.running)} × {self.model}, {self.sequences} sequences at once, "  # noqa: RUF001
            f"simulated as {profiles}"
        )


def read_lane(engines: str, lane: str) -> tuple[str, config.Lane]:
    """The lane named ``lane`` (empty: the first) of the file ``engines``, ``demo`` or ``sim``.

    Raises ``SpecError``.
    """
    if engines == SIMULATED:
        lanes = {"small": config.Lane(engines=(config.SimulatedEngine(),))}
    else:
        lanes = _lanes_of(engines)
    name = lane or next(iter(lanes))
    if name not in lanes:
        raise SpecError(f"--lane {lane}: not a lane of {engines}; they are {', '.join(lanes)}")
    if not all(isinstance(engine, _OVER_HTTP) for engine in lanes[name].engines):
        raise SpecError(f"--lane {name}: expected engines that are reached over HTTP")
    return name, lanes[name]


@asynccontextmanager
async def started(
    name: str, lane: config.Lane, *, profile: str, log_dir: Path
) -> AsyncIterator[Engines]:
    """Start the lane's engines, and stop them in the end; those that others run only must answer.

    ``profile`` empty: ``cpu-<lane>`` if there is one. Raises ``TargetError``.
    """
    async with HttpClient() as http:
        engines = [
            build_engine(name, index, lane, spec, http, log_dir)
            for index, spec in enumerate(lane.engines)
        ]
        try:
            await asyncio.gather(*(engine.start() for engine in engines))
            told = await asyncio.gather(*(engine.probe() for engine in engines))
            urls = [e.url for e in engines if isinstance(e, HttpEngine | SpawnedEngine)]
            yield _seen(name, lane, urls, told, profile)
        except EngineStartError as error:
            raise TargetError(f"--engines: {error}") from error
        finally:
            await asyncio.gather(*(engine.stop() for engine in engines))


def _lanes_of(engines: str) -> dict[str, config.Lane]:
    path = _DEMO_FILE if engines == DEMO else Path(engines)
    if not path.is_file():
        raise SpecError(
            f"--engines {engines}: expected a configuration file, {SIMULATED}, or, in a checkout "
            f"of the repository, {DEMO}; {path} is not there"
        )
    try:
        pools = reading.load(path).pools
    except ConfigError as error:
        raise SpecError(f"--engines {engines}: {error}") from error
    return {name: lane for pool in pools.values() for name, lane in pool.lanes.items()}


def _seen(
    name: str, lane: config.Lane, urls: Sequence[str], told: Sequence[EngineStatus], profile: str
) -> Engines:
    for url, status in zip(urls, told, strict=True):
        if not status.up:
            raise TargetError(f"--engines: {url} of lane {name} does not answer: {status.detail}")
    lengths = [status.context_tokens for status in told if status.context_tokens]
    if lane.context_tokens:
        lengths.append(lane.context_tokens)
    running = [_running(*one) for one in zip(lane.engines, urls, told, strict=True)]
    chosen = profile_of_lane(name, profile) or _USUAL_PROFILE
    return Engines(
        model=lane.model or name,
        running=tuple(running),
        models=tuple(_model(*one, chosen) for one in zip(lane.engines, running, strict=True)),
        context_tokens=min(lengths, default=None),
    )


def _running(spec: config.Engine, url: str, told: EngineStatus) -> config.HttpEngine:
    return config.HttpEngine(
        url=url,
        api_key=spec.api_key if isinstance(spec, config.HttpEngine) else None,
        priority=isinstance(spec, config.HttpEngine | config.VllmEngine) and spec.priority,
        max_num_seqs=spec.max_num_seqs or told.max_num_seqs or UNTOLD_MAX_NUM_SEQS,
        kv_cache_tokens=spec.kv_cache_tokens or told.kv_cache_tokens,
    )


def _model(spec: config.Engine, running: config.HttpEngine, profile: str) -> config.SimulatedEngine:
    return modelled(spec if isinstance(spec, config.SimulatedEngine) else running, profile)
