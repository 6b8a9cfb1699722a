"""Sends the same request over and over, on connections that stay open, and times each."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

_WORDS = "The quick brown fox jumps over the lazy dog near the old river bank. " * 8
BODY = (
    b'{"model":"bench","messages":[{"role":"user","content":"' + _WORDS.strip().encode() + b'"}]}'
)
"""A prompt of about 100 words."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What came of a load."""

    seconds: float
    latencies_s: list[float]


async def drive(port: int, path: str, key: str, *, requests: int, connections: int) -> Timing:
    """Send ``requests`` in closed loop. Raises ``RuntimeError`` for any answer but 200."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n"
    )
    request = head.encode() + BODY
    latencies: list[float] = []
    left = requests

    async def connection() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            left -= 1
            began = time.perf_counter()
            writer.write(request)
            await _answer(reader)
            latencies.append(time.perf_counter() - began)
        writer.close()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(connection())
    return Timing(time.perf_counter() - began, latencies)


async def _answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"expected 200, got {head[:200]!r}")
    at = head.find(b"content-length:")
    if at >= 0:
        await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0]))
        return
    while (size := int((await reader.readline()).strip(), 16)) > 0:
        await reader.readexactly(size + 2)
    await reader.readline()
