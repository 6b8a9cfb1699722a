"""Requests as bytes on sockets of one's own: what no decent client library would send."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass

from tests.faults.load import key_of

_ANSWER_S = 60.0


@dataclass(slots=True)
class Connection:
    """One connection to a gateway."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int | None = None) -> Connection:
        """Connect; ``receive_buffer`` in bytes makes the kernel stop the sender early."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return cls(*await asyncio.open_connection(sock=sock, limit=2**20))

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next one. Raises ``OSError``, ``EOFError`` or ``TimeoutError``."""
        async with asyncio.timeout(_ANSWER_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head.split(b" ", 2)[1])
            if b"transfer-encoding: chunked" in head:
                return status, await self._chunks()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
            return status, await self.reader.readexactly(length)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()
        return body

    def reset(self) -> None:
        """End it with RST."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        """End it as usual."""
        self.writer.close()


def request(
    body: bytes, *, tenant: str, path: str = "/v1/chat/completions", more: str = ""
) -> bytes:
    """A POST; ``more`` are further header lines."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key_of(tenant)}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode("latin-1") + body


def chat(model: str, tokens: int, **fields: object) -> bytes:
    """A chat body whose answer has so many tokens."""
    return json.dumps({
        "model": model, "max_tokens": tokens, "ignore_eos": True,
        "messages": [{"role": "user", "content": "Which ferns grow in the shade?"}], **fields,
    }).encode()  # fmt: skip
