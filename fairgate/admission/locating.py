"""Where the server is that takes a pool's writes now."""

from __future__ import annotations

from typing import Protocol


class Locator(Protocol):
    """Finds the server; asked anew before every connection."""

    async def locate(self) -> str:
        """Its URL, as redis-py reads them. Raises ``RedisError`` and ``OSError``.

        Cancelled: nothing stays connected.
        """

    def doubt(self) -> None:
        """The last answer did not serve, or not any more."""


class FixedServer:
    """The one server that there is."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def locate(self) -> str:
        return self._url

    def doubt(self) -> None:
        """There is no other."""


def locator_of(url: str, pool: str = "") -> Locator:
    """Finds the server for the keys of ``pool`` in the store at ``url`` (``store.url``)."""
    return FixedServer(url)
