"""Requests as bytes, over real sockets: what no client library would send."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from support.gateway import bearer

PATIENCE_S = 20.0
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class RawAnswer:
    """One answer as it came."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        found = re.search(rf"^{name}: ?(.*?)\r$".encode(), self.head, re.MULTILINE | re.IGNORECASE)
        return found[1].decode("latin-1") if found else None

    @property
    def error(self) -> dict[str, Any]:
        """The OpenAI error object."""
        return dict(json.loads(self.body)["error"])


def request(
    method: str = "POST",
    target: str = CHAT,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    *,
    lines: tuple[bytes, ...] = (),
    tenant: str | None = "acme",
) -> bytes:
    """A request with ``lines`` as further header lines; its length is told unless they frame it."""
    sent = {"host": "gateway", **(bearer(tenant) if tenant else {}), **(headers or {})}
    framed = any(b"content-length" in line.lower() or b"transfer" in line.lower() for line in lines)
    if not framed and "content-length" not in sent:
        sent["content-length"] = str(len(body))
    told = [f"{name}: {value}".encode("latin-1") for name, value in sent.items()]
    start = f"{method} {target} HTTP/1.1".encode("latin-1")
    return b"\r\n".join([start, *told, *lines, b"", b""]) + body


@contextmanager
def connection(port: int) -> Iterator[socket.socket]:
    """A connection to a server on the loopback."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as it:
        yield it


def answers(data: bytes) -> list[RawAnswer]:
    """The answers in ``data``, which are framed by their length or by the end."""
    found = []
    while data:
        head, end, rest = data.partition(b"\r\n\r\n")
        assert end, f"half a head: {head[:200]!r}"
        head += b"\r\n"
        length = re.search(rb"content-length: ?(\d+)", head, re.IGNORECASE)
        size = int(length[1]) if length else len(rest)
        found.append(RawAnswer(int(head[9:12]), head, rest[:size]))
        data = rest[size:]
    return found


def exchange(port: int, data: bytes) -> list[RawAnswer]:
    """Send ``data`` and no more, and read until the server closes."""
    with connection(port) as it:
        with suppress(ConnectionError):
            it.sendall(data)
            it.shutdown(socket.SHUT_WR)
        return answers(drain(it))


def drain(it: socket.socket) -> bytes:
    """What still comes, until the server closes or breaks the connection."""
    parts = []
    with suppress(ConnectionError):
        while part := it.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def ask(port: int, data: bytes) -> RawAnswer:
    """Send one whole request; its answer, which has a length."""
    with connection(port) as it:
        it.sendall(data)
        return read_one(it)


def read_one(it: socket.socket) -> RawAnswer:
    """The next answer on the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = it.recv(65_536)
        assert part, f"closed after {data[:200]!r}"
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: ?(\d+)", head, re.IGNORECASE)
    size = int(length[1]) if length else 0
    while len(body) < size:
        part = it.recv(65_536)
        assert part, "closed in the middle of a body"
        body += part
    return RawAnswer(int(head[9:12]), head + b"\r\n", body[:size])


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/status") as status:
        (line,) = (line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
