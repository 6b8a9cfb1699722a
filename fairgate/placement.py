"""Says what a configuration may not hold in the place where it is to run: served, or mounted."""

from __future__ import annotations

from collections.abc import Iterator

from fairgate.config import AppEngine, Config, Engine, HttpEngine
from fairgate.config.rules import all_engines
from fairgate.errors import ConfigError


def check_served(config: Config, *, source: str = "") -> None:
    """Raise ``ConfigError`` for what only a mounted FairGate knows: its app and its routes."""
    problems = ["routes: only a mounted FairGate has them; leave them out"] * bool(config.routes)
    problems += [
        f"{path}: type 'app' is the app that FairGate is mounted in; "
        "'fairgate serve' has none, expected 'http', 'vllm', 'vllm-inprocess' or 'simulated'"
        for path, engine in all_engines(config)
        if isinstance(engine, AppEngine)
    ]
    if problems:
        raise ConfigError(problems, source=source)


def check_mounted(config: Config, *, source: str = "") -> None:
    """Raise ``ConfigError`` for engines and sockets that only ``fairgate serve`` starts, and for
    what needs answers that pass through the gateway."""
    if problems := [*_spawned(config), *_sampled(config), *_own_socket(config)]:
        raise ConfigError(problems, source=source)


def _spawned(config: Config) -> Iterator[str]:
    for path, engine in all_engines(config):
        if not isinstance(engine, AppEngine | HttpEngine):
            yield (
                f"{path}: type '{_tag(engine)}' is started by 'fairgate serve' only; "
                "expected 'app' or 'http' where FairGate is mounted"
            )


def _sampled(config: Config) -> Iterator[str]:
    for name, pool in config.pools.items():
        for field in ("best_of", "cascade"):
            if getattr(pool, field) is not None:
                yield (
                    f"pools.{name}.{field}: only 'fairgate serve' sends requests to engines; "
                    "leave it out where FairGate is mounted"
                )


def _own_socket(config: Config) -> Iterator[str]:
    if config.admin.mounted and config.admin.port is not None:
        yield (
            "admin.port: only 'fairgate serve' opens a socket for operators; leave it out where "
            "FairGate is mounted, or say admin.mounted: false"
        )


def _tag(engine: Engine) -> str:
    return str(engine.__struct_config__.tag)
