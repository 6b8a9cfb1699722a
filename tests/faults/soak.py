"""``python -m tests.faults.soak``: all faults at random under load, then a look at what is left."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from loadgen.report import plain_table
from tests.bench.parts.processes import allow_open_files
from tests.faults.answers import Kind
from tests.faults.books import Balance, Books, Kill, read_records
from tests.faults.faults import Fault
from tests.faults.ledger import Look, held_back
from tests.faults.load import Record
from tests.faults.measure import Figures, Round, count
from tests.faults.programs import Program, module
from tests.faults.report import details, table
from tests.faults.rows import FAULTS
from tests.faults.rows.clients import clients
from tests.faults.rows.engines import engines
from tests.faults.site import POOL, Plan, Site, site
from tests.faults.sockets import descriptors

_CLEAN_S = 8.0
_QUIET_S = 15.0
_LOOKS = 5
_TOGETHER = 0.3
"""Share of faults that come with another one, of an engine or of clients."""


_ALL = [name for name, fault in FAULTS.items() if fault.store in ("plain", "proxied")]
"""Sentinels and clusters have rows only: their stores may forget what they said last."""


class Report(msgspec.Struct):
    """What a soak found."""

    seed: int
    minutes: float
    faults: dict[str, int]
    figures: Figures
    looks: int
    balances: list[Balance]
    wrong: list[str]


class Soak:
    """One soak on one site."""

    def __init__(self, site: Site, seed: int, minutes: float) -> None:
        self._site = site
        self._seed = seed
        self._minutes = minutes
        self._random = random.Random(seed)
        self._injected = Counter[str]()
        self._began = 0.0
        self._kills: list[Kill] = []
        file = site.folder / "reader.jsonl"
        command = module("tests.faults.reader", site.store.url, POOL, str(file))
        self._reader, self._seen = Program("reader", command, site.folder / "reader.log"), file

    async def run(self) -> Report:
        """Everything, to the end."""
        site, load = self._site, self._site.load
        figures = Figures(fault=f"soak of {self._minutes:g} min", shows="all at random")
        await Round(site).warm_up()
        await load.pause()
        tasks, files = await self._open_in_gateways(), self._files()
        keys = await self._lasting_keys()
        load.resume()
        self._reader.launch()
        seen = len(load.records)
        figures.in_flight = site.plan.in_flight
        await self._faults(figures)
        healed = time.monotonic()
        await load.pause()
        count(figures, load.records[seen:])
        figures.recovery_s = time.monotonic() - healed
        self._note_double(figures, "after all faults")
        held, quiet = await self._quiet()
        figures.details += held
        look = await self._clean_phase(quiet, figures)
        looks = await self._read(figures)
        found = await self._balance(look, figures) if look else []
        for what, before, after in (
            ("tasks", tasks, await self._open_in_gateways()),
            ("descriptors", files, self._files()),
            ("keys without expiry", keys, await self._lasting_keys()),
        ):
            if more := after - before:
                figures.details.append(f"{what} left behind: {dict(more)}")
        logged = Counter(line[:200] for gate in site.gates for line in gate.bugs())
        figures.details += [f"logged {n} times: {line}" for line, n in logged.most_common(10)]
        return Report(
            self._seed, self._minutes, dict(self._injected), figures, looks, found, figures.details
        )

    async def _faults(self, figures: Figures) -> None:
        draw = self._random
        small = [fault.name for fault in (*engines.faults, *clients.faults)]
        until = time.monotonic() + self._minutes * 60
        while time.monotonic() < until:
            chosen = [draw.choice(_ALL)]
            if chosen[0] not in small and draw.random() < _TOGETHER:
                chosen.append(draw.choice(small))
            names = " + ".join(chosen)
            typer.echo(f"{until - time.monotonic():6.0f} s left: {names}", err=True)
            await self._inject([FAULTS[name] for name in chosen], figures)
            self._site.load.check()
            await asyncio.sleep(draw.uniform(0.5, 2))
            self._note_double(figures, names)

    def _note_double(self, figures: Figures, since: str) -> None:
        double = self._site.doubly_granted()
        figures.doubly_granted += len(double)
        figures.details += [f"{since}: {what}" for what in double[:3]]
        if double:
            typer.echo(f"{len(double)} double-granted", err=True)

    async def _inject(self, faults: list[Fault], figures: Figures) -> None:
        began, harms = time.time(), []
        async with AsyncExitStack() as stack:
            for fault in faults:
                harms.append(await stack.enter_async_context(fault.inject(self._site)))
                self._injected[fault.name] += 1
            await asyncio.sleep(faults[0].lasts_s * self._random.uniform(0.3, 1))
        figures.injected += len(faults)
        for fault, harm in zip(faults, harms, strict=True):
            figures.details += [f"{fault.name}: {note}" for note in harm.notes[:3]]
        if faults[0].name == "store killed, empty":
            self._began = time.time()
        self._kills += [
            Kill(gate.program.name, gate.killed_at)
            for gate in self._site.gates
            if gate.killed_at >= began
        ]

    async def _quiet(self) -> tuple[list[str], Look | None]:
        until = time.monotonic() + _QUIET_S
        while True:
            seen = await self._site.look()
            if seen is None:
                return ["the store does not answer"], None
            held = held_back(seen, self._site.capacity)
            if not held or time.monotonic() > until:
                return held, seen
            await asyncio.sleep(0.2)

    async def _clean_phase(self, before: Look | None, figures: Figures) -> Look | None:
        """After all faults the ledger charges to the token what clients were told."""
        load, seen = self._site.load, len(self._site.load.records)
        load.resume()
        await asyncio.sleep(_CLEAN_S)
        await load.pause()
        held, after = await self._quiet()
        figures.details += [*held, *_not_answered(load.records[seen:])]
        if before is None or after is None:
            return None
        told = Counter[str]()
        for record in load.records[seen:]:
            told[record.tenant] += record.ending.tokens
        figures.details += [
            f"{name}: {charged:g} tokens charged, clients were told of {told[name]}"
            for name, account in after.tenants.items()
            if name in told and (charged := account.du - before.tenants[name].du) != told[name]
        ]
        return after

    async def _balance(self, seen: Look, figures: Figures) -> list[Balance]:
        async with self._site.store.client() as client:
            records = await read_records(client)
        books = Books(seen, records, began=self._began, kills=self._kills)
        found = books.balance(self._site.gates)
        figures.details += [f"tokens do not add up: {b}" for b in found if not b.holds]
        figures.details += books.wrong[:20]
        return found

    async def _read(self, figures: Figures) -> int:
        """Ends the reader, and takes in what it saw; how often it looked."""
        await self._reader.stop()
        lines = [json.loads(line) for line in self._seen.read_text().splitlines()]
        found = Counter(line["wrong"] for line in lines[:-1])
        figures.details += [f"seen {n} times: {wrong}" for wrong, n in found.most_common(10)]
        return int(lines[-1]["looks"])

    async def _open_in_gateways(self) -> Counter[str]:
        """Tasks of each gateway's loop, by name: those that are there whenever one looks."""
        found = await self._tasks()
        for _ in range(_LOOKS):
            found &= await self._tasks()
        return found

    async def _tasks(self) -> Counter[str]:
        found = Counter[str]()
        for gate in self._site.gates:
            found.update(f"{gate.program.name} {name}" for name in await gate.tasks())
        return found

    def _files(self) -> Counter[str]:
        """Descriptors of each gateway, but for connections to engines, which are kept for reuse."""
        site = self._site
        ports = {engine.port: "engine" for engine in site.engines}
        ports |= {gate.door.port: "client" for gate in site.gates}
        found = Counter[str]()
        for gate in site.gates:
            for kind, n in descriptors(gate.program.pid, ports).items():
                if kind != "engine":
                    found[f"{gate.program.name} {kind}"] = n
        return found

    async def _lasting_keys(self) -> Counter[str]:
        """Keys that never expire, by kind."""
        found = Counter[str]()
        async with self._site.store.client() as client:
            async for key in client.scan_iter(count=1000):
                if await client.pttl(key) == -1:
                    found[(key.decode().partition("}:")[2] or key.decode()).split(":")[0]] += 1
        return found


def _not_answered(records: list[Record]) -> list[str]:
    endings = Counter(r.ending for r in records if r.ending.kind is not Kind.ANSWERED)
    return [f"after all faults {n} times: {e.kind} {e.detail}" for e, n in endings.items()]


def main(
    minutes: Annotated[float, typer.Option(min=0.1)] = 30,
    seed: Annotated[int, typer.Option(help="Of the faults' order; 0 draws one.")] = 0,
    gateways: Annotated[int, typer.Option(min=2, max=4)] = 3,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 150,
    on_failure: Annotated[str, typer.Option(help="As of make faults.")] = "",
    output: Annotated[Path, typer.Option("--json", help="Where the figures go.")] = Path(
        "build/soak.json"
    ),
    folder: Annotated[Path | None, typer.Option(help="Where logs stay.")] = None,
) -> None:
    """All faults at random under load, while a reader checks the ledger from outside.

    Exit status 1 where anything was lost, granted twice, leaked, or contradicts itself.
    """
    seed = seed or random.SystemRandom().randrange(1, 10**6)
    typer.echo(f"seed {seed}", err=True)
    allow_open_files(8_192)
    plan = Plan(
        gateways=gateways, in_flight=in_flight, on_failure=on_failure, store="proxied", seed=seed
    )
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        report = asyncio.run(_soak((folder or Path(temporary)) / "site", plan, minutes))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    typer.echo(plain_table(table([report.figures])))
    typer.echo(plain_table(_books(report.balances)))
    typer.echo(f"seed {seed}, the ledger seen {report.looks:,} times")
    for line in details([report.figures]):
        typer.echo(line)
    if not report.figures.good:
        raise typer.Exit(1)


async def _soak(folder: Path, plan: Plan, minutes: float) -> Report:
    async with site(folder, plan) as it:
        return await Soak(it, plan.seed, minutes).run()


def _books(found: list[Balance]) -> list[list[str]]:
    header = [
        "tenant", "tokens charged", "recorded", "settled", "arrears", "died with a gateway",
        "unsure", "",
    ]  # fmt: skip
    return [
        header,
        *(
            [b.tenant, *(f"{n:,.0f}" for n in _columns(b)), "" if b.holds else "FAILED"]
            for b in found
        ),
    ]


def _columns(b: Balance) -> tuple[float, ...]:
    return b.charged, b.recorded, b.settled, b.arrears, b.died, b.unsure


if __name__ == "__main__":
    typer.run(main)
