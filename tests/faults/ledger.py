"""The ledger of a pool as an outsider reads it. One look is one script call: of one moment."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis

from fairgate.admission.scripts import compose_script

_LOOK = compose_script(
    "look",
    b"""
    local function names(kind)
      local found, start = {}, #fg.PREFIX + #kind + 2
      for _, name in ipairs(redis.call('KEYS', fg.PREFIX .. kind .. ':*')) do
        table.insert(found, string.sub(name, start))
      end
      return found
    end

    local function map(hash)
      local found = {}
      for i = 1, #hash, 2 do
        found[hash[i]] = hash[i + 1]
      end
      return found
    end

    local look = {requests = {}, held = {}, waiting = {}, lines = {}, lanes = {}, engines = {},
      free = {}, tenants = {}, users = {}, late = redis.call('SMEMBERS', fg.PREFIX .. 'late')}
    look.gateways = map(redis.call('ZRANGE', fg.PREFIX .. 'gateways', 0, -1, 'WITHSCORES'))
    for _, id in ipairs(names('request')) do
      local r = fg.load_request(id)
      if r then
        table.insert(look.requests, {id = id, state = r.state, tenant = r.tenant, lane = r.lane,
          user = r.user, engine = r.engine or '', gateway = r.gateway, held_kv = r.held_kv or 0,
          tokens = r.tokens})
      end
    end
    for _, gateway in ipairs(names('held')) do
      look.held[gateway] = redis.call('ZRANGE', fg.key('held', gateway), 0, -1)
    end
    for _, gateway in ipairs(names('waiting')) do
      look.waiting[gateway] = redis.call('SMEMBERS', fg.key('waiting', gateway))
    end
    for _, lane in ipairs(names('lane')) do
      look.lanes[lane], look.lines[lane] = fg.lane_record(lane).waiting, 0
      look.free[lane] = map(redis.call('ZRANGE', fg.free_key(lane), 0, -1, 'WITHSCORES'))
      for _, tenant in ipairs(redis.call('ZRANGE', fg.tenants_key(lane), 0, -1)) do
        local place = {lane = lane, line_tenant = tenant}
        for _, user in ipairs(redis.call('ZRANGE', fg.users_key(place), 0, -1)) do
          place.line_user = user
          look.lines[lane] = look.lines[lane] + redis.call('ZCARD', fg.requests_key(place))
        end
      end
    end
    for _, engine in ipairs(names('engine')) do
      look.engines[engine] = map(redis.call('HGETALL', fg.key('engine', engine)))
    end
    for _, kind in ipairs({'tenant', 'user'}) do
      for _, name in ipairs(names(kind)) do
        local a = fg.account(fg.key(kind, name))
        look[kind .. 's'][name] = {flight = a.flight, waiting = a.waiting, s = a.s, du = a.du,
          rc = a.rc, tc = a.tc}
      end
    end
    return cjson.encode(look)
    """,
)


class Request(msgspec.Struct, frozen=True):
    """A request's record."""

    id: str
    state: str
    tenant: str
    user: str
    lane: str
    engine: str
    gateway: str
    held_kv: float
    tokens: float


class Account(msgspec.Struct, frozen=True):
    """What is known of a tenant or user."""

    flight: float
    waiting: float
    s: float
    du: float
    rc: float
    tc: float


class EngineUse(msgspec.Struct, frozen=True):
    """An engine's hash; numbers as text."""

    seqs: str = "0"
    kv: str = "0"
    aside_seqs: str = "0"
    aside_kv: str = "0"
    limit: str = "0"
    max_seqs: str = "0"
    max_kv: str = "0"
    up: str = "0"


@dataclass(frozen=True, slots=True)
class Look:
    """Everything the ledger held at one moment. Lists that are empty are objects in Lua's JSON."""

    gateways: dict[str, str]
    late: list[str]
    """Gateways whose shares are set aside."""
    requests: list[Request]
    held: dict[str, list[str]]
    """Ids of granted requests by gateway."""
    waiting: dict[str, list[str]]
    """Ids in line by gateway."""
    lanes: dict[str, float]
    """Requests that each lane believes to be waiting."""
    lines: dict[str, float]
    """Requests that really stand in its lines."""
    engines: dict[str, EngineUse]
    """By ``lane:engine``."""
    free: dict[str, dict[str, str]]
    tenants: dict[str, Account]
    users: dict[str, Account]


async def look(client: Redis, pool: str) -> Look:
    """Look once. Raises ``RedisError`` or ``OSError`` when the store does not answer."""
    reply = await client.eval(_LOOK.text, 1, f"fg:{{{pool}}}:settings")  # type: ignore[arg-type]
    found = {name: value or _nothing(name) for name, value in json.loads(reply).items()}
    return msgspec.convert(found, Look, strict=False)


def _nothing(name: str) -> Any:
    return [] if name in ("requests", "late") else {}


def violations(seen: Look) -> list[str]:
    """What of the ledger contradicts itself, in words. Empty when it is sound."""
    return [*_requests(seen), *_accounts(seen), *_engines(seen), *_lines(seen)]


def _ids(seen: Look, state: str) -> set[str]:
    return {r.id for r in seen.requests if r.state == state}


def _requests(seen: Look) -> list[str]:
    found = []
    for state, sets in (("granted", seen.held), ("waiting", seen.waiting)):
        records, members = _ids(seen, state), {i for ids in sets.values() for i in ids}
        if records != members:
            apart = sorted(records ^ members)
            found.append(f"{state}: records and sets differ by {len(apart)}, such as {apart[0]}")
    return found


def _accounts(seen: Look) -> list[str]:
    found = []
    live = [r for r in seen.requests if r.state in ("granted", "waiting")]
    for kind, accounts, name_of in (
        ("tenant", seen.tenants, lambda r: r.tenant),
        ("user", seen.users, lambda r: f"{r.tenant}:{r.user}"),
    ):
        flight = Counter(map(name_of, live))
        waiting = Counter(name_of(r) for r in live if r.state == "waiting")
        for name in accounts.keys() | flight.keys():
            a = accounts.get(name, Account(0, 0, 0, 0, 0, 0))
            if a.flight != flight[name]:
                found.append(f"{kind} {name}: flight {a.flight:g}, requests {flight[name]}")
            if a.waiting != waiting[name]:
                found.append(f"{kind} {name}: waiting {a.waiting:g}, requests {waiting[name]}")
            if min(a.s, a.du, a.rc, a.tc) < 0:
                found.append(f"{kind} {name}: a counter below 0: {a}")
    return found


def _engines(seen: Look) -> list[str]:
    found = []
    granted = [r for r in seen.requests if r.state == "granted"]
    for name in seen.engines.keys() | {f"{r.lane}:{r.engine}" for r in granted}:
        e = seen.engines.get(name, EngineUse())
        mine = [r for r in granted if f"{r.lane}:{r.engine}" == name]
        if int(e.seqs) != len(mine):
            found.append(f"engine {name}: {e.seqs} sequences reserved, {len(mine)} leases")
        if float(e.kv) != sum(r.held_kv for r in mine):
            found.append(f"engine {name}: {e.kv} KV tokens reserved, leases of others")
        lane, _, engine = name.partition(":")
        free = seen.free.get(lane, {}).get(engine)
        if free is not None and float(free) != int(float(e.limit)) - int(e.seqs) - int(
            e.aside_seqs
        ):
            found.append(
                f"engine {name}: {free} free of {e.limit}, {e.seqs} reserved, {e.aside_seqs} aside"
            )
        if not seen.late and (int(e.aside_seqs) or int(e.aside_kv)):
            found.append(f"engine {name}: {e.aside_seqs} sequences aside, and nobody is late")
    return found


def over_capacity(seen: Look) -> list[str]:
    """Engines with more leases than sequences, in words.

    Not a contradiction when the store just came back: it knows leases whose requests ended
    meanwhile, and takes up those that were given without it.
    """
    return [
        f"engine {name}: more leases than its {e.max_seqs} sequences"
        for name, e in seen.engines.items()
        if int(e.seqs) > int(e.max_seqs)
    ]


def _lines(seen: Look) -> list[str]:
    waiting = Counter(r.lane for r in seen.requests if r.state == "waiting")
    return [
        f"lane {name}: says {count:g} wait, {seen.lines.get(name, 0):g} in line, "
        f"{waiting[name]} records"
        for name, count in seen.lanes.items()
        if not count == seen.lines.get(name, 0) == waiting[name]
    ]


def held_back(seen: Look, capacity: dict[str, int]) -> list[str]:
    """What a quiet pool still holds, in words; ``capacity``: sequences by ``lane:engine``."""
    found = [f"{len(_ids(seen, s))} requests {s}" for s in ("granted", "waiting") if _ids(seen, s)]
    for name, most in capacity.items():
        lane, _, engine = name.partition(":")
        e, free = seen.engines.get(name, EngineUse()), seen.free.get(lane, {}).get(engine)
        if int(e.seqs) or int(e.kv):
            found.append(f"engine {name}: {e.seqs} sequences, {e.kv} KV tokens")
        if int(e.max_seqs) != most or free is None or float(free) != int(float(e.limit)):
            found.append(f"engine {name}: {free} free of {most}, limit {e.limit}")
    return found + violations(seen)


def leaked(seen: Look) -> int:
    """Requests that still take up capacity or a place in line."""
    reserved = sum(abs(int(e.seqs)) for e in seen.engines.values())
    flight = sum(abs(a.flight) for a in seen.tenants.values())
    return int(max(reserved + sum(seen.lines.values()), flight))
