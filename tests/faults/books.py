"""Whether each request was charged what it was served: the ledger's records beside the logs."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from redis.asyncio import Redis

from fairgate.billing.records import UsageRecord, record_of
from tests.faults.ledger import Look
from tests.faults.site import POOL, Gate

_PAGE = 10_000
_UNSENT_S = 0.5  # a settlement that was logged so shortly before a kill may not have been sent
_DEAD_S = 60.0  # by then a killed gateway's leases are swept, whatever else happens

_User = tuple[str, str]


class Kill(msgspec.Struct, frozen=True):
    """A gateway's end without warning."""

    gateway: str
    at: float
    """Seconds since the epoch."""


class Balance(msgspec.Struct):
    """One tenant's tokens since the ledger last began from nothing."""

    tenant: str
    charged: float
    """By the ledger."""
    recorded: int = 0
    """By its usage records."""
    settled: int = 0
    """Of requests that a gateway logged as it was charged."""
    arrears: int = 0
    """Served while the store was away, as logged as charged."""
    died: int = 0
    """Estimates of requests that died with their gateway: charged, and never settled."""
    unsure: int = 0
    """Charged of requests under way when the ledger began, or when their gateway was killed."""

    @property
    def holds(self) -> bool:
        explained = self.settled + self.arrears + self.died + self.unsure
        return self.charged == self.recorded == explained


class Books:
    """``began``: when the ledger last did, in seconds since the epoch."""

    def __init__(
        self, seen: Look, records: Sequence[UsageRecord], *, began: float, kills: Sequence[Kill]
    ) -> None:
        self._balances = {n: Balance(n, account.du) for n, account in seen.tenants.items()}
        self._began = began
        self._kills = kills
        self.wrong: list[str] = []
        """Requests that were charged what they were not served, in words."""
        self._charged: Counter[str] = Counter()  # by the client's request id
        self._words: defaultdict[str, list[str]] = defaultdict(list)
        self._arrears: Counter[_User] = Counter()
        self._uncharged: Counter[_User] = Counter()
        self._forgotten: Counter[_User] = Counter()
        self._nameless: defaultdict[str, list[UsageRecord]] = defaultdict(list)
        self._take(records)

    def _take(self, records: Sequence[UsageRecord]) -> None:
        names = {r.id: r.request_id for r in records if r.request_id}
        today = time.strftime("%Y-%m-%d", time.gmtime())
        for r in records:
            name = names.get(r.id)
            if r.at.startswith(today):  # the ledger's count is the day's
                self._balances[r.tenant].recorded += r.tokens
            if r.status == "arrears":
                self._arrears[r.tenant, r.user] += r.tokens
            elif name is None:
                self._nameless[r.id].append(r)
            else:
                self._charged[name] += r.tokens
                self._words[name].append(f"{r.status} {r.tokens}")

    def balance(self, gates: Iterable[Gate]) -> list[Balance]:
        """All tenants', by name; :attr:`wrong` says the rest."""
        for gate in gates:
            for line in gate.lines("request"):
                if line["tenant"] in self._balances:
                    self._compare(gate.program.name, line)
        self.wrong += [
            f"{name}: charged ({', '.join(self._words[name])}), and in no log"
            for name, tokens in self._charged.items()
            if tokens
        ]
        self._compare_arrears()
        for its_records in self._nameless.values():
            self._bury(its_records)
        return [balance for _, balance in sorted(self._balances.items())]

    def _compare(self, gateway: str, line: dict[str, str | float]) -> None:
        name, user = (
            str(line["request_id"]),
            (str(line["tenant"]), str(line["user"] or line["key"])),
        )
        balance = self._balances[user[0]]
        tokens = int(line["prompt_tokens"]) + int(line["output_tokens"])
        known, charged = name in self._charged, self._charged.pop(name, 0)
        ended = datetime.fromisoformat(str(line["timestamp"])).timestamp()
        if charged == tokens:
            balance.settled += tokens
        elif ended - float(line["total_ms"]) / 1000 < self._began and not known:
            self._forgotten[user] += tokens
        elif any(k.gateway == gateway and 0 <= k.at - ended <= _UNSENT_S for k in self._kills):
            balance.unsure += charged
        elif not known:
            self._uncharged[user] += tokens
        else:
            words = ", ".join(self._words[name])
            self.wrong.append(f"{name}: charged {charged} ({words}), logged {tokens}")

    def _compare_arrears(self) -> None:
        for user in self._arrears.keys() | self._uncharged.keys():
            paid, owed = self._arrears[user], self._uncharged[user]
            if paid != owed and not owed <= paid <= owed + self._forgotten[user]:
                self.wrong.append(f"{'/'.join(user)}: {paid} charged as arrears of {owed}")
            self._balances[user[0]].arrears += paid

    def _bury(self, its_records: Sequence[UsageRecord]) -> None:
        """Of requests that no gateway settled."""
        tokens = sum(r.tokens for r in its_records)
        first = its_records[0]
        at = datetime.fromisoformat(first.at).timestamp()
        if not tokens:
            return
        if all(r.status == "lost" for r in its_records) and any(
            0 <= at - k.at <= _DEAD_S for k in self._kills
        ):
            self._balances[first.tenant].died += tokens
        else:
            words = ", ".join(f"{r.status} {r.tokens}" for r in its_records)
            self.wrong.append(f"{first.id}: charged {tokens} ({words}), and nobody settled it")


async def read_records(client: Redis) -> list[UsageRecord]:
    """All usage records that the store has."""
    return [record_of(POOL, entry, fields) async for entry, fields in _entries(client)]


async def _entries(client: Redis) -> AsyncIterator[tuple[bytes, dict[bytes, bytes]]]:
    after = "-"

    while page := await client.xrange(f"fg:{{{POOL}}}:usage", after, "+", _PAGE):
        entries: list[Any] = page  # redis-py has a type for every kind of client at once
        for entry, fields in entries:
            yield entry, fields
        after = "(" + entries[-1][0].decode()
