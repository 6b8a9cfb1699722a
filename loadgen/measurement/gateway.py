"""One gateway process over engines that run: ``fairgate serve`` with a file of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from msgspec.structs import replace

from fairgate.child import Child, Command, log_tail, open_log
from fairgate.config import Config
from fairgate.config.server import Server
from fairgate.engines.process import free_port
from loadgen.errors import TargetError

_START_S = 60.0
_GRACE_S = 15.0
_POLL_S = 0.05
_HOST = "127.0.0.1"


@asynccontextmanager
async def gateway(config: Config, folder: Path) -> AsyncIterator[str]:
    """Start a gateway with a ledger of its own, and give its address; stop it in the end.

    Its file and log are left in ``folder``. Raises ``TargetError``, with the end of its log, when
    it is not ready within a minute. Cancelled: nothing of it is left running.
    """
    port, log = free_port(), folder / "gateway.log"
    command = _command(replace(config, server=Server(host=_HOST, port=port)), folder)
    log_start = open_log(log)
    child = await Child.spawn(command, log, grace_s=_GRACE_S)
    try:
        await _until_ready(child, log, log_start)
        yield f"http://{_HOST}:{port}"
    finally:
        await child.end()


def _command(config: Config, folder: Path) -> Command:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "fairgate.yaml"
    file.write_bytes(msgspec.yaml.encode(config))
    argv = ("-m", "fairgate.cli", "serve", "--config", str(file), "--log-dir", str(folder))
    return Command((sys.executable, *argv), dict(os.environ))


async def _until_ready(child: Child, log: Path, log_start: int) -> None:
    ended = asyncio.create_task(child.wait())
    try:
        async with asyncio.timeout(_START_S):
            while not _says_ready(log, log_start):
                if ended.done():
                    said = log_tail(log, log_start)
                    raise TargetError(f"the gateway {ended.result()} before it was ready:\n{said}")
                await asyncio.wait({ended}, timeout=_POLL_S)
    except TimeoutError as error:
        said = log_tail(log, log_start)
        raise TargetError(f"the gateway was not ready within {_START_S:g} s:\n{said}") from error
    finally:
        ended.cancel()


def _says_ready(log: Path, log_start: int) -> bool:
    said = log_tail(log, log_start)
    return any(line.startswith("ready http") for line in said.splitlines())
