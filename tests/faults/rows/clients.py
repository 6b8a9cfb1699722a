"""Clients that leave, read or write slowly, hang around, or send nonsense."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.faults.faults import Harm, Inject, Registry
from tests.faults.raw import Connection, chat, request
from tests.faults.site import GUEST, LANE, Site

clients = Registry()
_Visit = Callable[[Site, int, Harm], Awaitable[None]]
_ENDED = (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError)
_GONE = (OSError, asyncio.IncompleteReadError)


def _port(site: Site) -> int:
    return site.random.choice(site.gates).door.port


def _visitors(visit: _Visit, count: int) -> Inject:
    """So many at a time, one visit after the other while the fault lasts."""

    @asynccontextmanager
    async def present(site: Site) -> AsyncIterator[Harm]:
        harm, leaving = Harm(times=0), asyncio.Event()

        async def visitor(number: int) -> None:
            while not leaving.is_set():
                harm.times += 1
                try:
                    await visit(site, number, harm)
                except _GONE:  # with another fault at the same time
                    await asyncio.sleep(0.2)

        tasks = [asyncio.create_task(visitor(number)) for number in range(count)]
        try:
            yield harm
        finally:
            leaving.set()
            await asyncio.gather(*tasks)

    return present


async def _leave_somewhere(site: Site, number: int, harm: Harm) -> None:
    """In the middle of the head, the body, the line, the answer: closed or reset."""
    draw = site.random
    whole = request(chat(LANE, 30, stream=draw.random() < 0.5), tenant=GUEST)
    connection = await Connection.open(_port(site))
    cut = draw.choice([len(whole), len(whole), draw.randrange(1, len(whole))])
    connection.writer.write(whole[:cut])
    await asyncio.sleep(draw.choice([0, 0.01, 0.2, draw.uniform(0, 1.5)]))
    if draw.random() < 0.5:
        connection.reset()
    else:
        connection.close()


async def _read_slowly(site: Site, number: int, harm: Harm) -> None:
    """A byte at a time through a small window, then not at all."""
    connection = await Connection.open(_port(site), receive_buffer=2048)
    connection.writer.write(request(chat(LANE, 40, stream=True), tenant=GUEST))
    for _ in range(40):
        if not await connection.reader.read(1):
            break
        await asyncio.sleep(0.05)
    connection.reset()


async def _half_close(site: Site, number: int, harm: Harm) -> None:
    """The whole request, then the end of what it has to say."""
    connection = await Connection.open(_port(site))
    connection.writer.write(request(chat(LANE, 4), tenant=GUEST))
    connection.writer.write_eof()
    if not await connection.reader.read() and not harm.remarks:
        harm.remarks.append("a half-closed connection counts as left: it gets no answer")
    connection.close()
    await asyncio.sleep(0.1)


async def _write_slowly(site: Site, number: int, harm: Harm) -> None:
    """A byte of the head, or of the body, every tenth of a second."""
    connection = await Connection.open(_port(site))
    whole = request(chat(LANE, 4), tenant=GUEST)
    at_once = 0 if number % 2 else whole.index(b"\r\n\r\n") + 4
    connection.writer.write(whole[:at_once])
    for at in range(at_once, at_once + 30):
        connection.writer.write(whole[at : at + 1])
        await asyncio.sleep(0.1)
    connection.reset()


async def _pipeline(site: Site, number: int, harm: Harm) -> None:
    """Four requests at once on one connection: four answers, in order."""
    connection = await Connection.open(_port(site))
    connection.writer.write(b"".join(request(chat(LANE, n), tenant=GUEST) for n in (2, 3, 4, 5)))
    for tokens in (2, 3, 4, 5):
        try:
            status, body = await connection.answer()
        except _ENDED as error:
            harm.notes.append(f"pipelined request unanswered: {error!r}")
            break
        told = json.loads(body).get("usage", {}).get("completion_tokens")
        if status == 200 and told != tokens:
            harm.notes.append(f"pipelined request for {tokens} tokens got {told}")
    connection.close()


_HOSTILE: tuple[tuple[str, bytes, str], ...] = (
    ("no JSON", b"{" * 1000, ""),
    ("deep", b"[" * 50_000, ""),
    ("bad UTF-8", b'{"model": "small", "messages": [{"role": "user", "content": "\xff\xfe"}]}', ""),
    ("NaN", b'{"model": "small", "messages": [], "max_tokens": NaN}', ""),
    ("negative", chat(LANE, -5), ""),
    ("a million choices", chat(LANE, 5, n=1_000_000), ""),
    ("huge number", b'{"model": "small", "messages": [], "max_tokens": 1e999}', ""),
    ("unknown model", chat("nobody", 5), ""),
    ("messages of another type", chat(LANE, 5, messages="hello"), ""),
    ("an array", b"[]", ""),
    ("nothing", b"", ""),
    ("gzip", gzip.compress(b"0" * 1_000_000), "content-encoding: gzip\r\n"),
    ("too large", b" " * 1_000_001, ""),
)


async def _send_nonsense(site: Site, number: int, harm: Harm) -> None:
    """Each gets an error object with a 4xx."""
    name, body, more = site.random.choice(_HOSTILE)
    connection = await Connection.open(_port(site))
    connection.writer.write(request(body, tenant=GUEST, more=more))
    try:
        status, answer = await connection.answer()
        clear = bool(json.loads(answer)["error"]["message"])
    except (*_ENDED, KeyError, TypeError) as error:
        harm.notes.append(f"{name}: no clear answer: {error!r}")
    else:
        if not clear or not (400 <= status < 500 or status == 503):
            harm.notes.append(f"{name}: answered {status}: {answer[:80]!r}")
    connection.close()
    await asyncio.sleep(0.05)


for _name, _shows, _visit, _count in (
    ("clients abort", "at every stage: nothing stays reserved", _leave_somewhere, 30),
    ("slow readers", "a byte at a time", _read_slowly, 20),
    ("half-closed sockets", "the request, then FIN", _half_close, 20),
    ("slowloris", "a byte of head or body at a time", _write_slowly, 100),
    ("pipelining", "four requests on one connection", _pipeline, 5),
    ("hostile bodies", "each gets a 4xx that says why", _send_nonsense, 10),
):
    clients.add(_name, _shows, lasts_s=4)(_visitors(_visit, _count))


@clients.add("2,000 idle connections", "they cost descriptors, nobody's answers", lasts_s=3)
@asynccontextmanager
async def idle(site: Site) -> AsyncIterator[Harm]:
    harm = Harm(times=2000)
    connections: list[Connection] = []
    try:
        for number in range(harm.times):
            door = site.gates[number % len(site.gates)].door
            try:
                connections.append(await Connection.open(door.port))
            except OSError as error:
                if not door.open:
                    continue  # with another fault at the same time
                harm.notes.append(f"connection {number} was refused: {error}")
                break
        yield harm
    finally:
        for connection in connections:
            connection.reset()
