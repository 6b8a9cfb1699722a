"""The gateway's connections: heads and trailers are bounded, and trailers are no headers.

uvicorn takes as many header bytes as a client sends, before anybody knows who it is, and adds the
trailers of a chunked body to the headers of the request (RFC 9110, section 6.5.1, says not to).
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Of a request without its body, give or take what comes in one read."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, on such a connection."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._head_of: object = None
        self._head_bytes = 0
        """Since the request began, or the last bytes of its body came."""

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_of is not self.scope:
            self._head_of, self._head_bytes = self.scope, 0
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.headers = []  # what comes from here on are trailers

    def _refuse(self) -> None:
        if self.cycle is None or not self.cycle.response_started:
            self.transport.write(_TOO_LARGE)
        self.transport.close()
