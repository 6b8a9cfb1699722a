"""What routers share through the store, as typed calls: notes, debts, weights, places."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fairgate.admission.link import Link
from fairgate.admission.scripts import Script
from fairgate.admission.words import Argument
from fairgate.routing.debts import CAUTION, FIRST_DEBT, Debt, Unsent

STATE_S = 30 * 86_400.0
"""Debts and weights that nobody touches for so long are forgotten."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the store knew of a request that feedback came for."""

    note: bytes
    """As :meth:`RoutingStore.note` was given it."""
    debt: Debt
    """Of its tenant, with this feedback."""


@dataclass(frozen=True, slots=True)
class News:
    """What one replica learned since it last told."""

    rows: Mapping[str, tuple[bytes, int]]
    """Changes of the predictor's weights, float32 little-endian, and labels that made them."""
    places: Mapping[str, str]
    """Lanes of interactions."""
    requests: Mapping[str, Unsent]
    """By tenant, of those whose debt it wants to know."""


@dataclass(frozen=True, slots=True)
class Known:
    """What all replicas know together."""

    version: int
    place: str
    rows: Mapping[str, tuple[bytes, int]] | None
    """Weights and labels; ``None``: as of the version that was seen."""
    places: Mapping[str, str]
    debts: Mapping[str, Debt]
    recording: bytes = b""
    """What ``fairgate router record`` asks for, where it runs."""


class RoutingStore:
    """One pool's shared state of routing. ``learner`` names the encoder that weights belong to.

    Every call raises ``StoreError`` when the store is away; a cancelled one may still run.
    """

    def __init__(self, link: Link, pool: str) -> None:
        self._link = link
        self._pool = pool
        self._prefix = f"fg:{{{pool}}}:"
        self._note, self._feedback, self._sync = map(_script, ("note", "feedback", "sync"))
        self._tell = _script("tell")
        self._tallies = _script("tallies")

    def note(
        self, tenant: str, request_id: str, note: bytes, *, kept_s: float, most: int
    ) -> asyncio.Future[Any]:
        """Keep ``note`` until feedback comes, ``kept_s`` seconds at most; ``most`` of a tenant."""
        args = (_id(request_id), note, round(kept_s * 1000), most)
        return self._link.call(self._note, self._notes(tenant), args)

    async def feedback(
        self, tenant: str, request_id: str, score: float, *, agreed: float, kept_s: float
    ) -> Judged | None:
        """Take the feedback ``score`` to one request of ``tenant``; a request gets it once.

        ``agreed`` is the tenant's satisfaction level. ``None``: there is no such request, or it has
        had its feedback, or is older than ``kept_s`` seconds.
        """
        keys = (*self._notes(tenant), self._debt(tenant))
        args = (
            _id(request_id), score, agreed, round(kept_s * 1000),
            FIRST_DEBT, CAUTION, round(STATE_S * 1000),
        )  # fmt: skip
        reply = await self._link.call(self._feedback, keys, args)
        return Judged(bytes(reply[0]), _debt_of(reply[1:])) if reply else None

    async def sync(self, learner: str, news: News, *, version: int, place: str) -> Known:
        """Tell ``news`` and learn the others', since the ``version`` and ``place`` last seen."""
        tenants = list(news.requests)
        weights = f"{self._prefix}learner:{learner}"
        places = (f"{self._prefix}places", f"{self._prefix}placed")
        keys = (weights, *places, recording_key(self._pool), *map(self._debt, tenants))
        args: list[Argument] = [version, place or "0", round(STATE_S * 1000), len(news.rows)]
        for row, (changes, labels) in news.rows.items():
            args += (row, changes, labels)
        args.append(len(news.places))
        for pair in news.places.items():
            args += pair
        args.append(FIRST_DEBT)
        for unsent in news.requests.values():
            args += unsent
        reply = await self._link.call(self._sync, keys, args)
        return _known(reply, version, tenants)

    async def tally(self, news: Mapping[str, float]) -> dict[str, float]:
        """Add ``news`` to what all replicas counted; the sums of the last hour."""
        flat = [word for field, number in news.items() for word in (field, number)]
        reply = await self._link.call(self._tallies, (f"{self._prefix}tallies",), flat)
        return {field.decode(): float(sum_) for field, sum_ in _groups(reply, 2)}

    def tell(self, lines: Sequence[bytes]) -> asyncio.Future[Any]:
        """Hand ``lines`` to whoever records."""
        return self._link.call(self._tell, (recording_key(self._pool),), lines)

    def _notes(self, tenant: str) -> tuple[str, str]:
        return f"{self._prefix}notes:{tenant}", f"{self._prefix}noted:{tenant}"

    def _debt(self, tenant: str) -> str:
        return f"{self._prefix}debt:{tenant}"


def recording_key(pool: str) -> str:
    """Where ``fairgate router record`` writes what it wants of ``pool``; with ``:lines`` behind it,
    the channel on which it gets it."""
    return f"fg:{{{pool}}}:recording"


def _script(name: str) -> Script:
    text = (resources.files("fairgate") / "lua" / f"router_{name}.lua").read_bytes()
    return Script(name, text, hashlib.sha1(text).hexdigest().encode())  # noqa: S324 — EVALSHA's digest


def _id(request_id: str) -> str:
    """Clients may choose request ids, of any length."""
    return hashlib.blake2b(request_id.encode(), digest_size=16).hexdigest()


def _known(reply: Any, seen: int, tenants: Sequence[str]) -> Known:
    version, place, rows, places, debts, recording = reply
    return Known(
        version=int(version),
        place=place.decode(),
        rows=None
        if int(version) == seen
        else {row.decode(): (bytes(w), int(n)) for row, w, n in _groups(rows, 3)},
        places={interaction.decode(): lane.decode() for interaction, lane in _groups(places, 2)},
        debts=dict(zip(tenants, map(_debt_of, _groups(debts, 3)), strict=True)),
        recording=bytes(recording),
    )


def _groups(flat: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (flat[i : i + size] for i in range(0, len(flat), size))


def _debt_of(fields: Iterable[Any]) -> Debt:
    debt, requests, judged = fields
    return Debt(
        debt=float(debt) if debt else FIRST_DEBT,
        requests=int(requests or 0),
        judged=int(judged or 0),
    )
