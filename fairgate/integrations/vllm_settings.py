"""What FairGate inside vLLM's server works with: its file, as this one server reads it."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from fairgate.config import AppEngine, Config, Lane
from fairgate.config.rules import all_engines
from fairgate.errors import ConfigError
from fairgate.mounting import mounted_config

FILE = "FAIRGATE_CONFIG"
LANE = "FAIRGATE_LANE"

_LONGEST_NAME = 64


def server_config(args: Any, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration of the file that ``FAIRGATE_CONFIG`` names, or that of no file.

    ``args`` are the server's own. Its one lane gets a name of its own among the servers that share
    a store, since what waits here can only run here: ``FAIRGATE_LANE``, or else the lane's name
    with host and port. Raises ``ConfigError`` with every problem found.
    """
    file = environ.get(FILE, "")
    source = f"{FILE}={file}"
    try:
        config = mounted_config(file or None)
    except ConfigError as error:
        raise ConfigError(error.problems, source=source) from None
    pool_name, lane_name, lane = _only_lane(config, source)
    name = environ.get(LANE) or _derived(lane_name, args)
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_LONGEST_NAME - 1}}}", name):
        problem = (
            f"expected at most {_LONGEST_NAME} letters, digits, '.', '_' and '-', got {name!r}"
        )
        raise ConfigError([problem], source=LANE)
    pool = replace(config.pools[pool_name], lanes={name: lane})
    routes = tuple(replace(route, lane=name if route.lane else None) for route in config.routes)
    return replace(config, pools={pool_name: pool}, routes=routes)


def _only_lane(config: Config, source: str) -> tuple[str, str, Lane]:
    found = [(p, n, lane) for p, pool in config.pools.items() for n, lane in pool.lanes.items()]
    engines = [engine for _, engine in all_engines(config)]
    if len(found) != 1 or len(engines) != 1 or not isinstance(engines[0], AppEngine):
        problem = (
            "pools: expected one pool with one lane with one engine of type 'app', "
            "which is this server"
        )
        raise ConfigError([problem], source=source)
    return found[0]


def _derived(lane: str, args: Any) -> str:
    """Different for every server: by its host's own name, since many listen on all addresses."""
    where = f"{socket.gethostname()}-{args.port}"
    if args.uds:
        where = f"{socket.gethostname()}-{args.uds}"
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", f"{lane}-{where}")
    return plain if len(plain) <= _LONGEST_NAME else plain[:16] + "-" + plain[-47:].lstrip("-")
