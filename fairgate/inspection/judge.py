"""Makes of what was looked at what operators read: shares, roles, and reasons in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from fairgate.admission.look import NOBODY, EngineLook, LaneLook, LineLook, PoolLook, TenantLook
from fairgate.config import Config
from fairgate.inspection import report
from fairgate.inspection.observer import Observer, PoolView
from fairgate.inspection.shares import Demand, Role, Standing, standings
from fairgate.pool import Pool
from fairgate.routing.tallies import Tally

_MINUTE_S = 60.0
_LISTED = 40
_NAMED = 3
_REQUEST_S = 10.0
"""How long a request is taken to run, where refused ones are compared with those that do."""


def ledger(observer: Observer) -> report.Ledger:
    """The ledgers of all pools, as of the last look. Pools not seen yet are left out."""
    runtime = observer.runtime
    pools = [
        _pool(pool, view, view.look, runtime.config)
        for name, pool in runtime.pools.items()
        if (view := observer.views[name]).look is not None
    ]
    return report.Ledger(report.SCHEMA, _at(observer), runtime.gateway, tuple(pools))


def queue(observer: Observer) -> report.Queue:
    """The lines of all pools, as of the last look. Pools not seen yet are left out."""
    pools = [
        report.PoolQueue(name, tuple(_lane_queue(lane, view.look) for lane in view.look.lanes))
        for name, view in observer.views.items()
        if view.look is not None
    ]
    return report.Queue(report.SCHEMA, _at(observer), observer.runtime.gateway, tuple(pools))


def _at(observer: Observer) -> str:
    last = max((v.look.now_ms for v in observer.views.values() if v.look is not None), default=0.0)
    return datetime.fromtimestamp(last / 1000, UTC).isoformat(timespec="milliseconds")


def _pool(pool: Pool, view: PoolView, look: PoolLook, config: Config) -> report.PoolLedger:
    service = view.history.service(_MINUTE_S)
    refused = view.history.refused(_MINUTE_S)
    stand = standings(_demands(view, look, refused, config))
    lanes = tuple(_lane(lane, _drained(config, pool.name, lane.name)) for lane in look.lanes)
    running = sum(lane.running for lane in lanes)
    total = sum(service.values())
    rows = [
        report.TenantLedger(
            name=t.name,
            weight=_weight(config, t.name),
            role=stand[t.name].role,
            running=max(0, t.flight - t.waiting),
            waiting=t.waiting,
            share_running=_part(max(0, t.flight - t.waiting), running),
            share_service=_part(service.get(t.name, 0.0), total),
            share_fair=round(stand[t.name].fair, 4),
            due=round(stand[t.name].due, 2),
            excess=round(stand[t.name].excess, 2),
            service_per_s=round(service.get(t.name, 0.0) / _MINUTE_S, 2),
            counter=round(t.counter, 3),
            requests_per_minute=round(t.requests, 1),
            tokens_per_minute=round(t.tokens, 1),
            tokens_today=round(t.tokens_today),
            refused=refused.get(t.name, {}),
        )
        for t in look.tenants
    ]
    rows.sort(key=lambda row: (-row.share_service, -row.waiting, row.name))
    listed = tuple(rows[:_LISTED])
    return report.PoolLedger(
        name=pool.name,
        policy=pool.policy.preset,
        gateways=look.gateways,
        running=running,
        limit=sum(lane.limit for lane in lanes),
        waiting=sum(lane.waiting for lane in lanes),
        summary=summary(stand),
        tenants=listed,
        rest=report.Rest(
            running=max(0, running - sum(row.running for row in listed)),
            waiting=max(0, sum(n.waiting for n in lanes) - sum(row.waiting for row in listed)),
            share_service=round(max(0.0, 1 - sum(r.share_service for r in listed)), 4)
            if total
            else 0.0,
        ),
        lanes=lanes,
        router=_router(view.router),
    )


def _part(own: float, total: float) -> float:
    return round(min(1.0, own / total), 4) if total > 0 else 0.0


def _weight(config: Config, tenant: str) -> float:
    known = config.tenants.get(tenant)
    return known.weight if known else 1.0


def _demands(
    view: PoolView, look: PoolLook, refused: Mapping[str, Mapping[str, int]], config: Config
) -> dict[str, Demand]:
    found = {}
    for t in look.tenants:
        running, waiting = view.recent.means(t.name)
        count = sum(refused.get(t.name, {}).values())
        found[t.name] = Demand(
            weight=_weight(config, t.name),
            running=running,
            waiting=waiting,
            refused=count / _MINUTE_S * _REQUEST_S,
        )
    return found


def summary(stand: Mapping[str, Standing]) -> str:
    """Who does what to whom, in a sentence or two."""
    by_role: dict[Role, list[str]] = {}
    for name in sorted(stand, key=lambda n: -stand[n].excess):
        by_role.setdefault(stand[name].role, []).append(name)
    said = []
    if flooding := by_role.get(Role.FLOODS):
        said.append(f"{_names(flooding)} {_verb(flooding, 'floods', 'flood')}")
    elif over := by_role.get(Role.OVER):
        said.append(f"{_names(over)} {_verb(over, 'wants', 'want')} more than a fair share")
    if protected := by_role.get(Role.PROTECTED):
        said.append(f"{_names(protected)} {_verb(protected, 'is', 'are')} protected")
    if held := by_role.get(Role.HELD_BACK):
        said.append(f"{_names(held)} {_verb(held, 'is', 'are')} held back")
    if said:
        return "; ".join(said) + "."
    if served := by_role.get(Role.SERVED):
        return f"Nobody waits; {_names(served)} {_verb(served, 'is', 'are')} served."
    return "Nobody wants anything."


def _names(names: list[str]) -> str:
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"
    # In an order that stays as it is while what they want changes.
    first = sorted(names)
    return " and ".join(filter(None, (", ".join(first[:-1]), first[-1])))


def _verb(names: list[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many


def _drained(config: Config, pool: str, lane: str) -> Mapping[str, bool]:
    """Of each engine that this gateway knows, whether it is drained by hand."""
    spec = config.pools[pool].lanes.get(lane)
    return {n: e.drained for n, e in spec.engines_of(lane).items()} if spec else {}


def _lane(lane: LaneLook, drained: Mapping[str, bool]) -> report.LaneState:
    looks = sorted(lane.engines, key=lambda e: e.name)
    engines = tuple(_engine(e, drained.get(e.name)) for e in looks)
    running = sum(e.running for e in engines)
    limit = sum(int(e.limit) for e in lane.engines if e.up)
    free = int(lane.free)
    if limit == 0:
        state = "down"
    else:
        state = "saturated" if lane.waiting or not free else "up"
    return report.LaneState(
        name=lane.name,
        state=state,
        running=running,
        limit=limit,
        free=free,
        kept=min(free, int(lane.headroom * limit)),
        saturation=round(running / limit, 4) if limit else 0.0,
        waiting=lane.waiting,
        engines=engines,
    )


def _engine(engine: EngineLook, drained: bool | None) -> report.EngineState:
    """``drained`` is ``None`` of one that is not configured: it was removed, or is another's."""
    if drained:
        state = "drained"
    elif drained is None and not engine.up:
        state = "leaving"
    elif not engine.up:
        state = "down"
    else:
        state = "full" if engine.running >= int(engine.limit) else "up"
    return report.EngineState(
        name=engine.name,
        state=state,
        running=engine.running,
        limit=int(engine.limit) if engine.up else 0,
        max_num_seqs=engine.max_num_seqs,
        kv_tokens=engine.kv_tokens,
        kv_cache_tokens=engine.kv_cache_tokens,
        seen_s=round(engine.seen_ms / 1000, 1),
    )


def _lane_queue(lane: LaneLook, look: PoolLook) -> report.LaneQueue:
    tenants = {t.name: t for t in look.tenants}
    why = _why(lane)
    if any(entry.tenant == NOBODY for entry in lane.line):
        line = tuple(_in_order(t, lane) for t in look.tenants if t.waiting)
    else:
        line = tuple(_waiting(entry, lane, tenants, why) for entry in lane.line)
    return report.LaneQueue(
        name=lane.name,
        waiting=lane.waiting,
        tenants=lane.tenants_waiting,
        pace_s=round(lane.pace_ms / 1000, 3) if lane.pace_ms else None,
        oldest_wait_s=round(
            max((entry.next.oldest_ms for entry in lane.line if entry.next), default=0.0) / 1000, 1
        ),
        why=why,
        line=line,
    )


def _why(lane: LaneLook) -> str:
    """Why the lane grants nothing to whoever is first in line now."""
    if not lane.waiting:
        return ""
    if not any(e.up for e in lane.engines):
        return "no engine is up"
    if lane.free < 1:
        return "all sequences are taken"
    limit = sum(e.limit for e in lane.engines if e.up)
    if lane.headroom and lane.free <= lane.headroom * limit:
        return "the free sequences are kept for tenants below their share"
    return "its KV tokens do not fit"


def _waiting(
    entry: LineLook, lane: LaneLook, tenants: Mapping[str, TenantLook], why: str
) -> report.Waiting:
    account = tenants.get(entry.tenant)
    first = entry.next
    return report.Waiting(
        tenant=entry.tenant,
        place=entry.place,
        waiting=account.waiting if account else lane.waiting,
        users=entry.users,
        why=_behind(entry, lane) or f"first in line: {why}",
        oldest_wait_s=round(first.oldest_ms / 1000, 1) if first else None,
        next=report.NextRequest(
            user=first.user,
            app=first.app,
            cost=round(first.cost, 1),
            tokens=round(first.tokens),
            continuation=first.continuation,
            waited_s=round(first.waited_ms / 1000, 1),
        )
        if first
        else None,
    )


def _in_order(tenant: TenantLook, lane: LaneLook) -> report.Waiting:
    """In a line that does not tell tenants apart."""
    return report.Waiting(
        tenant=tenant.name,
        place=0,
        waiting=tenant.waiting,
        users=0,
        why=f"in one line with all others, {lane.waiting} requests long",
        oldest_wait_s=None,
        next=None,
    )


def _behind(entry: LineLook, lane: LaneLook) -> str:
    """Whose turn comes before, with a lower counter."""
    before = [other.tenant for other in lane.line if other.place < entry.place]
    if not entry.place:
        return ""
    more = entry.place - len(before)
    names = _names(before) if not more else f"{', '.join(before[:_NAMED])} and others"
    return f"behind {names}, who {_verb(before, 'has', 'have')} had less service"


def _router(tallies: Sequence[Tally]) -> tuple[report.RouterState, ...]:
    return tuple(
        report.RouterState(
            router=seen.router,
            lane=seen.lane,
            decisions=seen.decisions,
            judged=seen.judged,
            predicted=seen.predicted,
            observed=seen.observed,
        )
        for seen in tallies
    )
