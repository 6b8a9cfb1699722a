"""An engine that somebody else runs: any OpenAI-compatible server, reached by its address."""

from __future__ import annotations

from fairgate import config
from fairgate.engines.base import EngineStatus
from fairgate.engines.http_client import HttpClient
from fairgate.engines.http_transport import HttpTransport
from fairgate.engines.probe import probe


class HttpEngine:
    """See :class:`fairgate.engines.base.Engine`."""

    def __init__(self, name: str, settings: config.HttpEngine, http: HttpClient) -> None:
        self._name = name
        self._settings = settings
        self._http = http
        self._url = settings.url.rstrip("/").removesuffix("/v1")
        key = settings.api_key
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._transport = HttpTransport(http, self._url, self._headers)

    @property
    def name(self) -> str:
        return self._name

    @property
    def url(self) -> str:
        """Base address without a trailing slash and without ``/v1``."""
        return self._url

    @property
    def transport(self) -> HttpTransport:
        return self._transport

    @property
    def priority(self) -> bool:
        return self._settings.priority

    @property
    def cache_salt(self) -> bool:
        return self._settings.cache_salt

    async def start(self) -> None:
        """Nothing to start: returns at once, whether or not the server is up."""

    async def probe(self) -> EngineStatus:
        """Ask the server how it is."""
        return await probe(self._http.session, self._url, self._headers)

    async def stop(self) -> None:
        """Nothing to stop."""
