"""Engines that come and go while a gateway runs, at their own pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis
from support.gateway import eventually, tenant
from support.mounted import app_config

from fairgate import Runtime
from fairgate.config import AppEngine as AppEngineSettings
from fairgate.config import Config, Lane
from fairgate.engines.app import AppEngine
from fairgate.mounting import mounted_config


class SlowEngine(AppEngine):
    """Starts for ever; stops when it may."""

    def __init__(self, name: str, settings: AppEngineSettings) -> None:
        super().__init__(name, settings)
        self.seen: list[str] = []
        self.may_stop = asyncio.Event()

    async def start(self) -> None:
        self.seen.append("starts")
        try:
            await asyncio.sleep(60)
        finally:
            self.seen.append("start cancelled")

    async def stop(self) -> None:
        self.seen.append("stops")
        await self.may_stop.wait()
        self.seen.append("stopped")


WHOLE_LIFE = ["starts", "start cancelled", "stops", "stopped"]


@pytest.fixture
def config(valkey: redis.Redis, valkey_server: str) -> Config:
    return mounted_config(app_config(valkey_server, {"app": 4}, {"acme": tenant("acme")}))


@pytest.fixture
async def runtime(config: Config) -> AsyncIterator[Runtime]:
    async with Runtime.open(config, app_engine=SlowEngine) as runtime:
        yield runtime
        let_stop(runtime)


def let_stop(runtime: Runtime) -> None:
    for engine in runtime.engines:
        assert isinstance(engine, SlowEngine)
        engine.may_stop.set()


async def added(runtime: Runtime) -> SlowEngine:
    """An engine that joined and is starting."""
    settings = AppEngineSettings(max_num_seqs=2)
    engine = runtime.add_engine("app", "late", Lane(engines=(settings,)), settings)
    assert isinstance(engine, SlowEngine)
    await eventually(lambda: engine.seen)
    return engine


async def test_an_engine_removed_while_it_starts_is_stopped_after_that(runtime: Runtime) -> None:
    engine = await added(runtime)
    runtime.remove_engine(engine)
    await eventually(lambda: "stops" in engine.seen)
    assert engine in runtime.engines
    engine.may_stop.set()
    await eventually(lambda: engine not in runtime.engines)
    assert engine.seen == WHOLE_LIFE


async def test_engines_that_just_start_are_stopped_at_the_end(config: Config) -> None:
    async with Runtime.open(config, app_engine=SlowEngine) as runtime:
        engine = await added(runtime)
        let_stop(runtime)
    assert engine.seen == WHOLE_LIFE


async def test_engines_that_just_end_are_waited_for_at_the_end(config: Config) -> None:
    async with Runtime.open(config, app_engine=SlowEngine) as runtime:
        engine = await added(runtime)
        runtime.remove_engine(engine)
        await eventually(lambda: "stops" in engine.seen)
        let_stop(runtime)
    assert engine.seen == WHOLE_LIFE
    assert engine not in runtime.engines
