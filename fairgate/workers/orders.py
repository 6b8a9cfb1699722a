"""What the supervisor tells a worker, over the worker's standard input.

Each order is its length in four bytes and then JSON. The end of the input means that the supervisor
is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from fairgate.config import Config

_LENGTH_BYTES = 4


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Serve; the first order, and only the first."""

    number: int
    """Of the worker: 0, 1, …; its successor after a crash has the same."""
    config: Config
    folder: str
    """Where the workers of this gateway find each other."""


class Reload(msgspec.Struct, frozen=True, tag="reload"):
    """Take up a changed configuration."""

    config: Config


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Drain, or do not wait any longer: what a signal means."""


Order = Begin | Reload | Stop
_decoder: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Begin | Reload | Stop)


def packed(order: Order) -> bytes:
    """``order`` as it goes over the pipe."""
    text = msgspec.json.encode(order)
    return len(text).to_bytes(_LENGTH_BYTES) + text


async def read_orders(reader: asyncio.StreamReader) -> AsyncIterator[Order]:
    """Every order as it comes, until the supervisor is gone."""
    try:
        while True:
            length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES))
            yield _decoder.decode(await reader.readexactly(length))
    except asyncio.IncompleteReadError:
        return
