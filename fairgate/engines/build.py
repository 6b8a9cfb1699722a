"""Make the engines that the configuration names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from fairgate import config
from fairgate.engines.app import AppEngine
from fairgate.engines.base import Engine
from fairgate.engines.http import HttpEngine
from fairgate.engines.http_client import HttpClient
from fairgate.engines.inprocess import InProcessEngine
from fairgate.engines.process import Patience, SpawnedEngine
from fairgate.engines.simulated_process import simulated_command
from fairgate.engines.vllm import vllm_command

AppEngineFactory = Callable[[str, config.AppEngine], Engine]
"""Makes the engine that stands for the mounted app, of its name and its section of the file."""


def build_engine(
    lane_name: str,
    index: int,
    lane: config.Lane,
    engine: config.Engine,
    http: HttpClient,
    log_dir: Path,
    app_engine: AppEngineFactory = AppEngine,
) -> Engine:
    """Make one engine of a lane, not yet started.

    Without a ``name`` of its own it is ``<lane>-<index>``. A spawned one has its port from here on
    and logs to ``<log_dir>/<lane>/<name>.log``. ``http`` stays the caller's to close.
    """
    name = engine.name or f"{lane_name}-{index}"
    if isinstance(engine, config.HttpEngine):
        return HttpEngine(name, engine, http)
    if isinstance(engine, config.AppEngine):
        return app_engine(name, engine)
    model = lane.model or lane_name
    if isinstance(engine, config.InProcessEngine):
        return InProcessEngine(name, engine, model)
    if isinstance(engine, config.VllmEngine):
        command = partial(vllm_command, engine, model)
        priority, patience = engine.priority, Patience(start_s=engine.start_timeout_s)
    else:
        command = partial(simulated_command, engine, model)
        priority, patience = True, Patience(start_s=60.0, grace_s=5.0)
    return SpawnedEngine(
        name,
        command,
        http,
        log_dir / lane_name / f"{name}.log",
        port=engine.port,
        priority=priority,
        patience=patience,
    )
