"""The scripts as typed calls: arguments in, decoded replies out. No state of its own."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from fairgate.accounting import BYTES_PER_TOKEN, AppProfile
from fairgate.admission.link import Link
from fairgate.admission.look import PoolLook
from fairgate.admission.model import (
    Arrears,
    Ask,
    EngineReport,
    LaneStatistics,
    PoolStatistics,
    Served,
    TenantView,
)
from fairgate.admission.scripts import load_script
from fairgate.admission.words import Argument, Words, word
from fairgate.config import Limits, Queue, RateLimits
from fairgate.config.policy import ResolvedPolicy
from fairgate.headers import LimitView

MAX_SCORE = 2.0**30
STATE_TTL_S = 6 * 3600.0

_VIEW = 6
_NO_WORD = word(b"")
_VIEWS = msgspec.json.Decoder(TenantView)
_LOOKS = msgspec.msgpack.Decoder(PoolLook)
_pack = msgspec.msgpack.Encoder().encode


class GrantNote(msgspec.Struct, frozen=True, gc=False):
    """A grant as the scripts write it down."""

    id: str
    lane: str
    engine: str
    priority: int


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """Reply of ``admit``: granted, or queued when ``engine`` is empty."""

    lane: str
    engine: str = ""
    priority: int = 0
    position: int = 0
    continues: bool = False
    """It is a later call of an admitted interaction."""
    limits: LimitView | None = None


class Denied(msgspec.Struct, frozen=True, gc=False):
    """Reply of ``admit``: which limit refused it, and when to come back."""

    limit: str
    retry_after_s: float
    limits: LimitView | None = None


class Unknown:
    """Reply of ``admit``: the store does not know this gateway or pool; renew first. Of ``view``
    and ``inspect``: it does not know the pool."""


class Down:
    """Reply of ``admit``: no preferred lane has an engine that is up."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """Reply of ``renew``."""

    epoch: str
    now_ms: str
    joined: str
    """Since when the store has taken this gateway for alive, without a gap."""
    more: bool
    grants: tuple[GrantNote, ...]
    quiet_s: float
    """Until then nothing is granted: the store was away, and others may not be back yet."""
    aside: bool
    """The store has set this gateway's share aside until it has told what it runs."""
    statistics: PoolStatistics


_HELD_BACK = 0.5
"""Of the time that a continuation may wait in line, what a handicap takes at most: else it would be
refused for it, and its interaction broken."""


def settings_of(
    policy: ResolvedPolicy,
    queues: Mapping[str, Queue],
    headroom: Mapping[str, float] | None = None,
    usage_records: int = 0,
) -> dict[str, Argument]:
    """The pool's settings as the scripts read them; ``queues`` and ``headroom`` by lane, headroom 0
    where not named, and how many ``usage_records`` are kept; 0: none are made."""
    longest_s = min((queue.longest_s for queue in queues.values()), default=math.inf)
    return {
        **({"usage": usage_records} if usage_records else {}),
        "order": policy.order,
        "throttle": policy.throttle,
        "interactions": int(policy.interaction_aware),
        "normalise_tenant": policy.normalise_tenant,
        "normalise_user": policy.normalise_user,
        "levels": policy.levels,
        "advantage": policy.continuation_advantage,
        "handicap_ms": round(1000 * min(policy.handicap_s, longest_s * _HELD_BACK)),
        "idle_credit": policy.idle_credit,
        "patience_ms": round(policy.patience_s * 1000),
        "backfill": policy.backfill,
        "quantile": policy.output_quantile,
        "idle_ms": round(policy.interactions.idle_s * 1000),
        "max_calls": policy.interactions.max_calls,
        "max_tokens": policy.interactions.max_tokens,
        "state_ttl_ms": round(STATE_TTL_S * 1000),
        "lanes": "".join(f",{lane}" for lane in queues),
        "headroom": "".join(
            f",{lane}={share}" for lane, share in (headroom or {}).items() if share
        ),
        "max_score": MAX_SCORE,
    }


class Ledger:
    """One pool's scripts on one link.

    ``clock`` overrides the store's clock (seconds since the epoch): for the virtual-time simulator
    and tests only.
    """

    def __init__(
        self, link: Link, pool: str, gateway: str, *, clock: Callable[[], float] | None = None
    ) -> None:
        self._link = link
        self._guard = link.guard
        self._gateway = gateway
        self._clock = clock
        self._prefix = f"fg:{{{pool}}}:"
        self._settings_key = f"{self._prefix}settings"
        self._request_key = f"{self._prefix}request:".encode()
        self._first_word = word(self._settings_key.encode())
        self._guard_words = b"".join(word(key.encode()) for key in link.guard)
        self._gateway_word = word(gateway.encode())
        self._gateways_key = f"{self._prefix}gateways"
        self._admit, self._settle, self._cancel, self._renew, self._view, self._inspect = map(
            load_script, ("admit", "settle", "cancel", "renew", "view", "inspect")
        )
        self._adopt, self._charge = map(load_script, ("adopt", "charge"))

    @property
    def channel(self) -> str:
        """Where other gateways publish grants for this one."""
        return f"{self._prefix}grants:{self._gateway}"

    def _now(self) -> str:
        return "" if self._clock is None else f"{self._clock() * 1000:.3f}"

    def _now_word(self) -> bytes:
        return _NO_WORD if self._clock is None else word(self._now().encode())

    async def admit(self, ask: Ask) -> Admitted | Denied | Unknown | Down:
        """Ask for capacity. Cancelled: the call still runs; cancel the request id afterwards."""
        number = ask.id.encode()
        packed = b"".join((
            self._first_word, word(self._request_key + number),
            _of_sender(self._prefix, ask.tenant, ask.user), self._guard_words,
            self._now_word(), word(number), self._gateway_word, word(_packed(ask)),
        ))  # fmt: skip
        keys = 4 + len(self._guard)
        return _admitted(await self._link.call_with(self._admit, Words(keys, keys + 4, packed)))

    async def settle(self, request_id: str, served: Served) -> tuple[GrantNote, ...]:
        """Replace the estimate by what was used; returns grants of this gateway that follow."""
        return notes_of(await self.send_settle(request_id, served))

    def send_settle(
        self, request_id: str, served: Served, *, now: bool = False
    ) -> asyncio.Future[list[bytes]]:
        """The same as a future of the reply, for :func:`notes_of`. Cancelled: it is still sent.

        ``now``: before all else that this turn of the event loop has to do.
        """
        packed = _pack((
            served.cost, served.tokens, served.void, served.learn, served.output_tokens,
            served.prompt_bytes, served.prompt_tokens, served.continues_as,
        ))  # fmt: skip
        number = request_id.encode()
        words = b"".join((
            self._first_word, word(self._request_key + number), self._guard_words,
            self._now_word(), word(number), self._gateway_word, word(packed), word(served.record),
        ))  # fmt: skip
        keys = 2 + len(self._guard)
        taken = self._link.call_with(self._settle, Words(keys, keys + 5, words))
        if now:
            self._link.send()
        return taken

    async def cancel(self, request_id: str) -> tuple[GrantNote, ...]:
        """Leave the line or give an unused grant back; returns grants of this gateway."""
        args = (self._now(), request_id, self._gateway)
        return notes_of(await self._link.call(self._cancel, self._request_keys(request_id), args))

    def send_adopt(self, ask: Ask, lane: str, engine: str) -> asyncio.Future[bytes]:
        """Tell of a request that runs on ``engine`` although the store does not know it; see
        ``adopt.lua``. Cancelled: it is still sent."""
        args = (self._now(), ask.id, self._gateway, _packed(ask), lane, engine)
        return self._link.call(self._adopt, self._request_keys(ask.id), args)

    async def charge(self, charge_id: str, arrears: Arrears) -> None:
        """Charge what one user was served while the store was away; see ``charge.lua``."""
        a = arrears
        packed = _pack((
            a.ask.tenant, a.ask.tenant_weight, a.ask.user, a.ask.user_weight, a.ask.app, a.cost,
            a.tokens, a.requests, a.recent_tokens, a.recent_requests,
            _given(a.ask.app_limits) is not None,
        ))  # fmt: skip
        args = (self._now(), charge_id, packed)
        await self._link.call(self._charge, (self._settings_key, *self._guard), args)

    def on_lost(self, lost: Callable[[], None]) -> None:
        """Have ``lost`` called whenever the connection to the store ends."""
        self._link.lost = lost

    async def renew(
        self,
        *,
        lease_s: float,
        settings: dict[str, Argument],
        queues: dict[str, Queue],
        engines: Sequence[EngineReport],
        since_ms: str = "-inf",
        leave: bool = False,
        peers: int = 0,
        share: Sequence[EngineReport] = (),
    ) -> Renewed:
        """The heartbeat: see ``renew.lua``. ``leave`` gives all of this gateway's leases up;
        ``peers`` gateways were alive when it lost the store, 0 if it did not. ``share`` is what it
        would grant by itself; then ``since_ms`` must be the stamp of the last reply it got."""
        args = (
            self._now(), self._gateway, round(lease_s * 1000), json.dumps(settings),
            json.dumps([_queue(name, queue) for name, queue in queues.items()]),
            json.dumps([_report(engine) for engine in engines]), since_ms, int(leave), peers,
            _packed_share(share),
        )  # fmt: skip
        keys = (self._settings_key, self._gateways_key, *self._guard)
        return _renewed(json.loads(await self._link.call(self._renew, keys, args)))

    async def view(
        self, tenant: str, user: str, weights: Mapping[str, float] | None
    ) -> TenantView | Unknown:
        """What a tenant and one of its users may know of the pool; changes nothing.

        ``weights`` of all tenants, of which those with requests in flight are summed up; ``None``
        where they are too many to look at.
        """
        keys = (
            self._settings_key,
            f"{self._prefix}tenant:{tenant}",
            f"{self._prefix}user:{tenant}:{user}",
        )
        args = (self._now(), tenant, user, "" if weights is None else json.dumps(dict(weights)))
        reply = await self._link.call(self._view, keys, args)
        return Unknown() if reply[0] == b"unknown" else _VIEWS.decode(reply[1])

    async def inspect(
        self, tenants: Sequence[str] = (), *, since_slice: int = 0, most: int = 20
    ) -> PoolLook | Unknown:
        """What the pool looks like now, for its operator; changes nothing.

        Tells of the first ``most`` tenants in line of each lane, and of ``tenants``; and of at most
        ten slices of the history, from ``since_slice`` on.
        """
        args = (self._now(), since_slice, _pack(list(tenants)), most)
        reply = await self._link.call(self._inspect, (self._settings_key,), args)
        return Unknown() if reply == b"unknown" else _LOOKS.decode(reply)

    def _request_keys(self, request_id: str) -> tuple[str, ...]:
        return (self._settings_key, f"{self._prefix}request:{request_id}", *self._guard)


@lru_cache(maxsize=4096)
def _of_sender(prefix: str, tenant: str, user: str) -> bytes:
    """The keys of a tenant and its user."""
    keys = f"{prefix}tenant:{tenant}", f"{prefix}user:{tenant}:{user}"
    return b"".join(word(key.encode()) for key in keys)


def _packed(ask: Ask) -> bytes:
    return _pack((
        ask.tenant, ask.tenant_weight, ask.user, ask.user_weight, ask.app, ask.cost, ask.tokens,
        ask.kv_tokens, ask.interaction and f"{ask.tenant}:{ask.interaction}", ask.exempt,
        ask.avoid, ask.lanes, _given(ask.tenant_limits), _given(ask.user_limits),
        _given(ask.app_limits),
    ))  # fmt: skip


@lru_cache(maxsize=4096)
def _given(limits: Limits | RateLimits) -> dict[str, int] | None:
    """Those that are set; ``None`` if none is."""
    return {name: n for name in limits.__struct_fields__ if (n := getattr(limits, name))} or None


def _queue(name: str, queue: Queue) -> dict[str, Any]:
    return {
        "name": name,
        "max_waiting": queue.max_waiting,
        "max_waiting_per_tenant": queue.max_waiting_per_tenant,
    }


def _report(engine: EngineReport) -> dict[str, Any]:
    return {
        "lane": engine.lane,
        "name": engine.name,
        "up": int(engine.up),
        "max_seqs": engine.max_num_seqs,
        "max_kv": engine.kv_cache_tokens,
        "pressure": engine.pressure,
    }


def _packed_share(share: Sequence[EngineReport]) -> bytes:
    parts = [(r.lane, r.name, r.max_num_seqs, r.kv_cache_tokens) for r in share if r.max_num_seqs]
    return _pack(parts) if parts else b""


def _admitted(reply: list[Any]) -> Admitted | Denied | Unknown | Down:
    match reply[0]:
        case b"granted":
            limits = _view(reply[4:])
            return Admitted(reply[1].decode(), reply[2].decode(), int(reply[3]), limits=limits)
        case b"queued":
            lane, position = reply[1].decode(), int(reply[2])
            return Admitted(
                lane, position=position, continues=reply[3] == b"1", limits=_view(reply[4:])
            )
        case b"throttled":
            return Denied(reply[1].decode(), int(reply[2]) / 1000, _view(reply[3:]))
        case b"down":
            return Down()
        case _:
            return Unknown()


def _view(numbers: Sequence[int]) -> LimitView | None:
    if len(numbers) < _VIEW:
        return None
    requests, left, reset, tokens, tokens_left, tokens_reset = numbers
    if requests < 0 and tokens < 0:
        return None
    return LimitView(
        limit_requests=requests if requests >= 0 else None,
        remaining_requests=left,
        reset_requests_s=reset / 1000,
        limit_tokens=tokens if tokens >= 0 else None,
        remaining_tokens=tokens_left,
        reset_tokens_s=tokens_reset / 1000,
    )


def _note(line: bytes | str) -> GrantNote:
    text = line.decode() if isinstance(line, bytes) else line
    request_id, lane, engine, priority = text.split(" ")
    return GrantNote(request_id, lane, engine, int(priority))


def notes_of(reply: Sequence[bytes]) -> tuple[GrantNote, ...]:
    """The grants in a reply of ``settle`` or ``cancel``."""
    return tuple(map(_note, reply[1:])) if len(reply) > 1 else ()


def parse_notes(text: str) -> tuple[GrantNote, ...]:
    """Grants as published: one a line."""
    return tuple(_note(line) for line in text.split("\n") if line)


def _renewed(reply: dict[str, Any]) -> Renewed:
    lanes = {
        name: LaneStatistics(
            engines_up=int(lane["up"]),
            limit=int(lane["limit"]),
            running=int(lane["seqs"]),
            free=int(lane["free"]),
            waiting=int(lane["waiting"]),
        )
        for name, lane in dict(reply["lanes"]).items()
    }
    apps = {
        app: AppProfile(
            app=app,
            samples=int(float(samples)),
            mean_cost=float(cost),
            output_quantile=float(output),
            bytes_per_token=float(ratio) or BYTES_PER_TOKEN,
        )
        for app, samples, cost, output, ratio in list(reply["apps"])
    }
    return Renewed(
        epoch=reply["epoch"],
        now_ms=reply["now"],
        joined=reply["joined"] or "",  # it has left
        more=reply["more"],
        grants=parse_notes(reply["grants"]),
        quiet_s=float(reply["quiet"]) / 1000,
        aside=reply["aside"],
        statistics=PoolStatistics(int(reply["gateways"]), int(reply["rank"]), lanes, apps),
    )
