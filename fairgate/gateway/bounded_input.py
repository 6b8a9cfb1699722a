"""The gateway's connections: what a client may send that no request will ever read is bounded.

uvicorn takes as many header bytes as come, before anybody knows who sends them, reads a body that
was answered already to its end, however far that is, and adds the trailers of a chunked body to the
headers of the request (RFC 9110, section 6.5.1, says not to).
"""

from __future__ import annotations

from typing import Any

from fairgate.gateway.cycle import Cycles

MAX_HEAD_BYTES = 64 * 1024
"""Of a request without its body, give or take what comes in one read."""

MAX_LATE_BYTES = 1 << 20
"""Of a body whose answer is complete: beyond these the connection is closed."""

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)


class BoundedInput(Cycles):
    """The protocol of such a connection."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._head_of: object = None
        self._head_bytes = 0
        """Since the request began, or the last bytes of its body came."""
        self._late_bytes = 0

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_of is not self.scope:
            self._head_of = self.scope
            self._head_bytes = self._late_bytes = 0
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if self.cycle.response_complete:
            self._late_bytes += len(body)
            if self._late_bytes > MAX_LATE_BYTES:
                self.transport.close()
        super().on_body(body)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.headers = []  # what comes from here on are trailers

    def _refuse(self) -> None:
        if self.cycle is None or not self.cycle.response_started:
            self.transport.write(_TOO_LARGE)
        self.transport.close()
