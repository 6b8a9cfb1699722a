"""What is sent: size, number of connections, JSON or stream, at what rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_WORDS = "The quick brown fox jumps over the lazy dog near the old river bank. "
Group = Literal["all", "proxies"]


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load."""

    name: str
    about: str
    connections: int = 32
    prompt_bytes: int = 550
    chunks: int = 0
    """Of a streamed answer; 0: one JSON."""
    per_s: float | None = None
    """Requests sent a second, whatever becomes of them; ``None``: each connection sends the next
    one when it has its answer."""
    subjects: Group = "proxies"
    """``all``: also apps with and without the middleware."""

    def body(self) -> bytes:
        """Of each request."""
        prompt = (_WORDS * (self.prompt_bytes // len(_WORDS) + 1))[: self.prompt_bytes].strip()
        stream = f'"stream":true,"max_tokens":{self.chunks},' if self.chunks else ""
        text = f'{{"model":"bench",{stream}"messages":[{{"role":"user","content":"{prompt}"}}]}}'
        return text.encode()


SMALL = Case("small", "JSON, 100 words, 32 connections", subjects="all")
ALONE = Case("alone", "the same over 1 connection", connections=1)
KB_1 = Case("1kb", "JSON, a prompt of 1 KB, 8 connections", connections=8, prompt_bytes=1_000)
KB_200 = Case("200kb", "the same with 200 KB", connections=8, prompt_bytes=200_000)
STREAM_40 = Case("stream40", "streams of 40 chunks, 32 connections", chunks=40)
PACED_40 = Case("paced40", "streams of 40 chunks, 20 begin each second", chunks=40, per_s=20)
STREAM_ALONE = Case("stream4", "streams of 4 chunks over 1 connection", connections=1, chunks=4)
STREAM_400 = Case("stream400", "streams of 400 chunks, 32 connections", chunks=400)

CASES = {
    case.name: case
    for case in (
        SMALL,
        ALONE,
        Case("256", "small over 256 connections", connections=256),
        Case("2000", "small over 2,000 connections", connections=2_000),
        KB_1,
        Case("20kb", "the same with 20 KB", connections=8, prompt_bytes=20_000),
        KB_200,
        Case("1mb", "the same with 1,000 KB", connections=8, prompt_bytes=1_000_000),
        STREAM_40,
        PACED_40,
        STREAM_ALONE,
        STREAM_400,
    )
}
USUAL = (SMALL, ALONE, KB_1, KB_200, STREAM_40, PACED_40, STREAM_ALONE)
"""Those of a run that names none."""
