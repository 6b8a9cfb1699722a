"""Carries requests to an engine over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote, urlsplit

from fairgate.engines.http_client import HttpClient, Origin
from fairgate.engines.http_connection import HttpAnswer
from fairgate.errors import EngineError

_PORTS = {"http": 80, "https": 443}


class HttpTransport:
    """See :class:`fairgate.engines.transport.Transport`. ``client`` stays the caller's."""

    def __init__(
        self, client: HttpClient, url: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """``url`` without ``/v1``; ``headers`` go with every request, such as its own key."""
        parts = urlsplit(url)
        self._client = client
        self._origin = Origin(
            parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 80)
        )
        self._base = parts.path.rstrip("/")
        own = {"Host": parts.netloc.rpartition("@")[2], **(headers or {})}
        self._own = frozenset(name.lower() for name in own)
        self._own_lines = "".join(f"{name}: {value}\r\n" for name, value in own.items())
        self._own_ends = len(own) + 3
        """Line ends of a head besides those of headers that come with the request."""

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
        """See :meth:`fairgate.engines.transport.Transport.post`."""
        own = self._own
        lines = [
            f"{name}: {value}\r\n" for name, value in headers.items() if name.lower() not in own
        ]
        text = (
            f"POST {_quoted(self._base + path)} HTTP/1.1\r\n{self._own_lines}{''.join(lines)}"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        ends = len(lines) + self._own_ends
        if text.count("\n") != ends or text.count("\r") != ends:
            raise EngineError("a header holds a line end")
        return await self._client.post(self._origin, _latin(text), body)


@lru_cache(maxsize=256)
def _quoted(path: str) -> str:
    return quote(path, safe="/:@!$&'()*+,;=~%")


def _latin(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
