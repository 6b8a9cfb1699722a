"""Clients that keep requests in flight and account for every single one."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.faults.answers import Ending, Kind, Wish, judge
from tests.faults.waiting import wait_until

DEADLINE_S = 60.0
"""A request without an end by then is lost: far beyond all timeouts of the gateways added up."""
_PATIENCE_S = 1.0
_DONE = b"data: [DONE]\n\n"
_LINGER_S = 1.0
_CALLS = 5  # of an interaction


@dataclass(slots=True)
class Door:
    """A gateway as its clients know it."""

    port: int
    open: bool = True
    """It is meant to serve."""
    fell: bool = False
    """It was ended without warning, so that what it was writing is cut short for its clients."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Record:
    """One request from its first attempt to its end."""

    id: str
    tenant: str
    sent_at: float
    ended_at: float
    door: int
    """The gateway that it ended at."""
    ending: Ending
    moved: int = 0
    """Attempts that died with their gateway."""

    @property
    def seconds(self) -> float:
        return self.ended_at - self.sent_at


@dataclass(slots=True)
class Client:
    """Somebody who sends one request after the other."""

    tenant: str
    user: str
    chained: bool
    """Its calls form interactions of five."""
    pinned: int | None = None
    """Asks this gateway only, and nobody instead."""
    tokens: tuple[int, int] = (6, 16)
    pause_s: float = 0.0
    first: int = 0
    """The gateway that it asks first; the next one with each call."""
    sent: int = 0
    random: random.Random = field(default_factory=random.Random)


class Load:
    """All clients; ``records`` grows by every request that ended."""

    def __init__(self, doors: list[Door], clients: Iterable[Client], *, model: str) -> None:
        self.doors = doors
        self.records: list[Record] = []
        self.under_way: dict[str, float] = {}
        self._clients = list(clients)
        self._model = model
        self._numbers = itertools.count()
        self._going = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Begin to send."""
        # A connection for each attempt: no request meets one that its gateway is just closing.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None)
        self._http = aiohttp.ClientSession(connector=connector, timeout=timeout)
        self._going.set()
        self._tasks = [asyncio.create_task(self._live(client)) for client in self._clients]

    async def pause(self) -> None:
        """Send nothing more and return once everything has ended."""
        self._going.clear()
        await wait_until(lambda: not self.under_way, 2 * DEADLINE_S)

    def resume(self) -> None:
        """Go on."""
        self._going.set()

    async def stop(self) -> None:
        """End all clients."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    def check(self) -> None:
        """Raises what ended a client, if anything did."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _live(self, client: Client) -> None:
        await asyncio.sleep(client.random.random())
        while True:
            await self._going.wait()
            record = await self._request(client)
            self.records.append(record)
            client.sent += 1
            if record.ending.kind is Kind.ANSWERED:
                await asyncio.sleep(client.pause_s)
            else:
                patience_s = min(record.ending.retry_after_s or _PATIENCE_S, _PATIENCE_S)
                await asyncio.sleep(patience_s * client.random.uniform(0.3, 1))

    async def _request(self, client: Client) -> Record:
        name = f"q{next(self._numbers)}"
        wish = Wish(client.random.random() < 0.5, client.random.randint(*client.tokens))
        self.under_way[name] = sent_at = time.monotonic()
        moved = 0
        try:
            while True:
                door = self._door(client, moved)
                ending = await self._attempt(f"{name}.{moved}", client, wish, door)
                if ending.kind is not Kind.DIED or client.pinned is not None:
                    break
                if time.monotonic() - sent_at > DEADLINE_S:
                    ending = Ending(Kind.LOST, f"no gateway took it ({ending.detail})")
                    break
                moved += 1
                await asyncio.sleep(client.random.uniform(0.02, 0.1))
        finally:
            del self.under_way[name]
        ended_at = time.monotonic()
        return Record(name, client.tenant, sent_at, ended_at, door, ending, moved)

    def _door(self, client: Client, moved: int) -> int:
        if client.pinned is not None:
            return client.pinned
        return (client.sent + moved + client.first) % len(self.doors)

    async def _attempt(self, name: str, client: Client, wish: Wish, number: int) -> Ending:
        door, http = self.doors[number], self._http
        assert http is not None, "start() comes first"
        status, body, done, was_open = 0, bytearray(), False, door.open
        try:
            async with (
                asyncio.timeout(DEADLINE_S) as patience,
                http.post(
                    door.url, json=_body(self._model, wish, name), headers=_headers(name, client)
                ) as answer,
            ):
                status = answer.status
                async for part in answer.content.iter_any():
                    body += part
                    if not done and _DONE in body:  # OpenAI's clients read no further
                        done = True
                        patience.reschedule(asyncio.get_running_loop().time() + _LINGER_S)
                return judge(wish, status, answer.headers, bytes(body))
        except TimeoutError:
            if done:
                return judge(wish, status, {}, bytes(body))
            return Ending(Kind.LOST, f"no end within {DEADLINE_S:g} s, status {status}")
        except (aiohttp.ClientError, OSError) as error:
            # Whoever kills a gateway marks its door first, and keeps it so until it is back.
            if door.fell or (not (door.open and was_open) and not status):
                return Ending(Kind.DIED, type(error).__name__)
            return Ending(Kind.LOST, f"connection ended, status {status}: {error!r}")


def key_of(tenant: str) -> str:
    """The API key of a tenant."""
    return f"key-of-{tenant}"


def _body(model: str, wish: Wish, name: str) -> dict[str, Any]:
    """The prompt says the request's name, so that engines can write it down."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": f"Which ferns grow in shade? ({name})"}],
        "max_tokens": wish.output_tokens,
        "ignore_eos": True,
    }
    if wish.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _headers(name: str, client: Client) -> dict[str, str]:
    headers = {
        "authorization": f"Bearer {key_of(client.tenant)}",
        "x-request-id": name,
        "x-fairgate-user": client.user,
    }
    if client.chained:
        headers["x-fairgate-interaction"] = f"{client.user}-{client.sent // _CALLS}"
    return headers
