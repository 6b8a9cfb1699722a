"""Engines that come and go while they are watched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from support.gateway import eventually

from fairgate.config import Engine as EngineSettings
from fairgate.config import HttpEngine, Lane
from fairgate.engines.base import Engine, EngineStatus
from fairgate.engines.monitor import EngineMonitor
from fairgate.engines.transport import Transport

OLD, NEW = "http://127.0.0.1:1", "http://127.0.0.1:2"
CONTEXT = {OLD: 1024, NEW: 4096}


class Watched:
    """An engine that is up, and has nothing to start."""

    transport: Transport | None = None
    priority = cache_salt = False

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""

    async def probe(self) -> EngineStatus:
        return EngineStatus(up=True, context_tokens=CONTEXT.get(self.url))


class Fleet:
    def __init__(self) -> None:
        self.gone: list[str] = []
        self.when_gone: Callable[[], None] = lambda: None

    def add_engine(self, lane: str, name: str, spec: Lane, settings: EngineSettings) -> Watched:
        assert isinstance(settings, HttpEngine)
        return Watched(name, settings.url)

    def remove_engine(self, engine: Engine) -> None:
        assert isinstance(engine, Watched)
        self.gone.append(engine.url)
        self.when_gone()


def lanes(**urls: str) -> dict[str, Lane]:
    engines = tuple(HttpEngine(name=name, url=url) for name, url in urls.items())
    return {"small": Lane(engines=engines)}


@asynccontextmanager
async def watching(
    fleet: Fleet, requests: dict[str, set[str]], **urls: str
) -> AsyncIterator[EngineMonitor]:
    """``requests`` that run, by engine."""
    monitor = EngineMonitor(
        lanes(**urls), {"small": [Watched(name, url) for name, url in urls.items()]},
        interval_s=0.01, on_change=lambda: None, fleet=fleet,
        requests=lambda lane, name: set(requests.get(name, ())),
    )  # fmt: skip
    await monitor.start()
    try:
        yield monitor
    finally:
        await monitor.stop()


async def test_an_engine_whose_name_another_took_goes_when_its_own_requests_have_ended() -> None:
    fleet, requests = Fleet(), {"a": {"of the old one"}}
    async with watching(fleet, requests, a=OLD, b=OLD) as monitor:
        monitor.apply(lanes(a=NEW))
        requests["a"].add("of the new one")
        await eventually(lambda: fleet.gone == [OLD])  # b
        requests["a"].remove("of the old one")
        await eventually(lambda: fleet.gone == [OLD, OLD])
        engine = monitor.engine("small", "a")
        assert isinstance(engine, Watched)
        assert engine.url == NEW


async def test_an_engine_that_is_back_before_it_was_gone_stays() -> None:
    fleet = Fleet()
    async with watching(fleet, {}, a=OLD, b=NEW, c="http://127.0.0.1:3") as monitor:
        fleet.when_gone = lambda: monitor.apply(lanes(b=NEW, c="http://127.0.0.1:3"))
        monitor.apply(lanes(c="http://127.0.0.1:3"))
        await eventually(lambda: fleet.gone == [OLD])
        await eventually(lambda: not monitor.leaving())
        assert fleet.gone == [OLD]
        assert monitor.engine("small", "b") is not None


async def test_the_least_context_of_a_lane_is_that_of_the_engines_it_has() -> None:
    fleet = Fleet()
    async with watching(fleet, {}, a=OLD, b=NEW) as monitor:
        assert monitor.context_tokens("small") == CONTEXT[OLD]
        assert monitor.context_tokens("large") is None
        monitor.apply(lanes(b=NEW))
        await eventually(lambda: fleet.gone == [OLD])
        assert monitor.context_tokens("small") == CONTEXT[NEW]


async def test_an_engine_that_was_replaced_no_longer_bounds_the_context() -> None:
    async with watching(Fleet(), {"a": {"runs on"}}, a=OLD, b=NEW) as monitor:
        monitor.apply(lanes(a="http://127.0.0.1:3", b=NEW))  # which tells no context
        assert monitor.context_tokens("small") == CONTEXT[NEW]
