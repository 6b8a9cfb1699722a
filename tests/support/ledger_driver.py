"""Drives the shipped scripts on a real server, one call at a time, under a clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import redis
from msgspec.structs import replace

from fairgate.admission.ledger import (
    Admitted,
    Denied,
    Down,
    GrantNote,
    Ledger,
    Renewed,
    Unknown,
    parse_notes,
    settings_of,
)
from fairgate.admission.link import Link
from fairgate.admission.model import Ask, EngineReport, Served
from fairgate.admission.share import share_of_engines
from fairgate.config import Limits, Policy, Queue, RateLimits
from fairgate.config.policy import resolve_policy
from fairgate.errors import StoreError
from support.records import read_record

POOL = "test"
PREFIX = f"fg:{{{POOL}}}:"
LEASE_S = 5.0


class LedgerDriver:
    """A synchronous front of :class:`Ledger` for several gateways; collects all their grants."""

    def __init__(
        self,
        url: str,
        *,
        policy: Policy | None = None,
        gateways: tuple[str, ...] = ("g0",),
        lanes: tuple[str, ...] = ("small",),
        engines: tuple[EngineReport, ...] = (EngineReport("small", "e0", True, 2),),
        queue: Queue | None = None,
        headroom: dict[str, float] | None = None,
        usage_records: int = 0,
    ) -> None:
        self.now = 1_700_000_000.0
        self.loop = asyncio.new_event_loop()
        self.client = redis.Redis.from_url(url, decode_responses=True)
        self.client.flushall()
        self.link = Link(url)
        self.ledgers = {g: Ledger(self.link, POOL, g, clock=lambda: self.now) for g in gateways}
        self.policy = policy or Policy()
        self.queues = {lane: queue or Queue() for lane in lanes}
        self.engines = list(engines)
        self.headroom = headroom
        self.asks: dict[str, tuple[str, Ask]] = {}
        """Gateway and wish of every request."""
        self.losing: set[str] = set()
        """Kinds of calls whose next reply is lost: whoever called calls again."""
        self._behind: set[str] = set()
        self.heard: dict[str, str] = {}
        """By gateways that tell their share: when their last heartbeat was whose reply they got."""
        self.usage_records = usage_records
        self.granted: dict[str, list[GrantNote]] = {}
        self.subscriber = self.client.pubsub(ignore_subscribe_messages=True)
        self.subscriber.subscribe(*(ledger.channel for ledger in self.ledgers.values()))
        self.subscriber.get_message(timeout=1)
        for gateway in gateways:
            self.beat(gateway)

    def close(self) -> None:
        self.loop.run_until_complete(self.link.close())
        self.loop.close()
        self.subscriber.close()
        self.client.close()

    def _run(self, work: Callable[[], Any]) -> Any:
        """Once more where the connection turns out to be gone, as gateways do."""

        async def call() -> Any:
            return await work()

        try:
            return self.loop.run_until_complete(call())
        except StoreError:
            return self.loop.run_until_complete(call())

    def _call(self, kind: str, gateway: str, work: Callable[[], Any]) -> Any:
        if kind in self.losing:
            self.losing.remove(kind)
            self._run(work)
            self._behind.add(gateway)
        return self._run(work)

    def _note(self, *notes: GrantNote) -> None:
        for note in notes:
            self.granted.setdefault(note.id, []).append(note)

    def hear(self) -> None:
        """Take in what was published; a round trip orders it behind the script."""
        self.client.ping()
        while (message := self.subscriber.get_message(timeout=0.0)) is not None:
            self._note(*parse_notes(message["data"]))
        while self._behind:  # a heartbeat tells of grants whose reply was lost
            gateway = self._behind.pop()
            missed = self._renew(gateway, self.heard.get(gateway, "-inf")).grants
            self._note(*(note for note in missed if note.id not in self.granted))

    def beat(self, gateway: str = "g0", *, leave: bool = False) -> Renewed:
        if gateway in self.heard:
            return self._beat_and_tell(gateway, leave=leave)
        reply: Renewed = self._call("renew", gateway, lambda: self._renewal(gateway, "+inf", leave))
        self._note(*reply.grants)
        self.hear()
        return reply

    def _beat_and_tell(self, gateway: str, *, leave: bool) -> Renewed:
        """Until nothing is set aside for it, as gateways do."""
        while True:
            reply: Renewed = self._call(
                "renew", gateway, lambda: self._renewal(gateway, self.heard[gateway], leave)
            )
            self.heard[gateway] = reply.now_ms
            fresh = {note.id: note for note in reply.grants if note.id not in self.granted}
            self._note(*fresh.values())
            self.hear()
            if not reply.aside:
                return reply

    def _renew(self, gateway: str, since_ms: str) -> Renewed:
        reply: Renewed = self._run(lambda: self._renewal(gateway, since_ms, leave=False))
        return reply

    def _renewal(self, gateway: str, since_ms: str, leave: bool) -> Awaitable[Renewed]:
        return self.ledgers[gateway].renew(
            lease_s=LEASE_S,
            settings=settings_of(
                resolve_policy(self.policy), self.queues, self.headroom, self.usage_records
            ),
            queues=self.queues,
            engines=self.engines,
            since_ms=since_ms,
            leave=leave,
            share=self.share_of(gateway) if gateway in self.heard else (),
        )

    def share_of(self, gateway: str) -> list[EngineReport]:
        """What it would grant by itself."""
        names = list(self.ledgers)
        return share_of_engines(self.engines, replicas=len(names), rank=names.index(gateway))

    def restart(self, *, forget: bool) -> None:
        """The store comes back from its file, or empty; no connection or script is left.

        Needs a server that has an append-only file, and the command DEBUG.
        """
        if forget:
            self.client.flushall()
        else:
            self.client.execute_command("DEBUG", "LOADAOF")
        self.client.script_flush()
        self.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def wait(self, seconds: float) -> None:
        """Let time pass, with the heartbeats of all gateways."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + LEASE_S / 2)
            for gateway in self.ledgers:
                self.beat(gateway)

    def admit(
        self, request_id: str, tenant: str = "acme", gateway: str = "g0", **wishes: Any
    ) -> Admitted | Denied | Down | Unknown:
        defaults: dict[str, Any] = {
            "user": "u", "app": "chat", "lanes": (("small", 1.0),), "cost": 100.0,
            "tokens": 60, "kv_tokens": 60,
        }  # fmt: skip
        ask = Ask(id=request_id, tenant=tenant, **(defaults | wishes))
        return self._admit(gateway, ask)

    def admit_again(self, request_id: str) -> Admitted | Denied | Down | Unknown:
        """As a gateway does for those in line once the store forgot them."""
        gateway, ask = self.asks[request_id]
        return self._admit(gateway, replace(ask, exempt=True))

    def _admit(self, gateway: str, ask: Ask) -> Admitted | Denied | Down | Unknown:
        self.asks[ask.id] = gateway, ask
        reply: Admitted | Denied | Down | Unknown = self._call(
            "admit", gateway, lambda: self.ledgers[gateway].admit(ask)
        )
        if isinstance(reply, Admitted) and reply.engine:
            self._note(GrantNote(ask.id, reply.lane, reply.engine, reply.priority))
        self.hear()
        return reply

    def settle(self, request_id: str, cost: float = 100.0, gateway: str = "g0", **kw: Any) -> None:
        served = Served(**({"cost": cost, "tokens": 60, "void": False} | kw))
        self._note(
            *self._call("settle", gateway, lambda: self.ledgers[gateway].settle(request_id, served))
        )
        self.hear()

    def cancel(self, request_id: str, gateway: str = "g0") -> None:
        self._note(*self._call("cancel", gateway, lambda: self.ledgers[gateway].cancel(request_id)))
        self.hear()

    def record(self, kind: str, name: str) -> dict[str, Any]:
        """One record of the ledger, such as ``tenant`` / ``acme``."""
        return read_record(self.client, PREFIX, kind, name)

    def counter(self, tenant: str) -> float:
        return float(self.record("tenant", tenant).get("s", 0))

    def running(self) -> list[str]:
        """Ids of granted requests in the order in which they were granted."""
        return [i for i in self.granted if self.record("request", i).get("state") == "granted"]


def limits(**kw: int) -> Limits:
    return Limits(**kw)


def rates(**kw: int) -> RateLimits:
    return RateLimits(**kw)
