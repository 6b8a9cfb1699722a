"""Carries requests to an engine over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import aiohttp

from fairgate.errors import EngineError, EngineUnreachable


class HttpTransport:
    """See :class:`fairgate.engines.transport.Transport`. ``session`` stays the caller's."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """``url`` without ``/v1``; ``headers`` go with every request, such as its own key."""
        self._session = session
        self._url = url
        self._headers = dict(headers or {})

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
        """See :meth:`fairgate.engines.transport.Transport.post`."""
        try:
            response = await self._session.post(
                self._url + path,
                data=body,
                headers={**headers, **self._headers},
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise EngineUnreachable(type(error).__name__) from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(type(error).__name__) from error
        return HttpAnswer(response)


class HttpAnswer:
    """See :class:`fairgate.engines.transport.Answer`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return self._response.raw_headers

    async def read(self) -> bytes:
        try:
            return await self._response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(type(error).__name__) from error

    async def part(self) -> bytes:
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(type(error).__name__) from error

    async def parts(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(type(error).__name__) from error

    def limit_silence(self, idle_s: float) -> None:
        # From here on; aiohttp's own ``sock_read`` would limit the wait for the first byte as well.
        connection = self._response.connection
        handler = connection.protocol if connection is not None else None
        if handler is not None:
            handler.read_timeout = idle_s
            handler.start_timeout()

    def close(self) -> None:
        self._response.close()
