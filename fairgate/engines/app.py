"""The engine of a mounted FairGate: the app behind it, whose capacity is what the file says."""

from __future__ import annotations

from fairgate import config
from fairgate.engines.base import EngineStatus


class AppEngine:
    """See :class:`fairgate.engines.base.Engine`. Always up."""

    def __init__(self, name: str, settings: config.AppEngine) -> None:
        self._name = name
        self._settings = settings

    @property
    def name(self) -> str:
        return self._name

    @property
    def transport(self) -> None:
        """None: the app is called in this process, by the middleware."""

    @property
    def priority(self) -> bool:
        return False

    @property
    def cache_salt(self) -> bool:
        return True

    async def start(self) -> None:
        """Nothing to start: who mounts FairGate runs the app."""

    async def probe(self) -> EngineStatus:
        """Up, with the configured capacity."""
        settings = self._settings
        return EngineStatus(
            up=True,
            max_num_seqs=settings.max_num_seqs,
            kv_cache_tokens=settings.kv_cache_tokens,
        )

    async def stop(self) -> None:
        """Nothing to stop."""
