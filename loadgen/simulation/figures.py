"""The figures of one simulated run: those of a replay, and what only a simulation can know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from msgspec import Struct

from fairgate.config import Policy
from fairgate.config.policy import resolve_policy
from loadgen.metrics import Summary, percentile, summarise, tpot_ms
from loadgen.records import Outcome
from loadgen.service import Accumulated, Price, backlog, overlap
from loadgen.simulation.bound import BoundCheck, check_tenants, check_users
from loadgen.simulation.competing import (
    UserFigures,
    share_error,
    shares,
    user_gap,
    user_spread,
    users_of,
)
from loadgen.simulation.driver import Recording
from loadgen.simulation.endings import endings
from loadgen.simulation.finishing import finishing
from loadgen.simulation.work import Work
from loadgen.simulation.workload import POOL, Slo, Workload


class Run(Summary, frozen=True, kw_only=True):
    """One scenario under one policy with one seed: an element of ``runs`` in the JSON."""

    scenario: str
    policy: str
    headroom: float = 0.0
    """Share of the sequences kept for tenants below their share."""
    seed: int
    load: float
    """Offered, 1.0 being what the engines can serve."""
    calls_per_s: float
    """The engines' capacity for such calls, as measured under ``fcfs`` when all come at once."""
    capacity_use: float | None
    """Work received while calls came in, over what the engines could have given in full batches:
    throughput that does not depend on which calls were served (:mod:`loadgen.simulation.work`)."""
    capacity_use_waiting: float | None
    """The same of the time in which calls waited in line: what a policy that conserves work keeps
    as high as ``fcfs`` does, whatever it refused. ``None``: nothing waited."""
    sequences_use: float | None
    """Sequences that ran while calls came in, over what the engines can run: how full batches
    were, whatever was in them. ``None``: engines are not simulated."""
    steady_tokens_per_s: float
    """Tokens delivered while calls came in, per second: unlike the throughput, it leaves out how
    long the last ones took. It depends on which calls were served, see ``capacity_use``."""
    goodput_per_s: float
    """Calls that ended while calls came in, met the SLO and belong to no broken interaction, per
    second: how long the last interactions took does not dilute it."""
    tpot_ms: dict[str, float | None]
    worst_ttft_p99_ms: float | None
    """Of the tenant that is worst off."""
    worst_tenant: str
    throttled_by_cause: dict[str, int]
    throttled_interactions: int
    throttled_users: int
    interactions_completed: int
    interactions_per_s: float
    """Completed while calls came in: what came too late for that, an idle site finished."""
    interactions_in_slo: int
    """Completed with every call within the SLO."""
    interactions_broken: int
    """Lost a call after at least one of them was served."""
    interactions_refused: int
    """Lost their first call: nothing was served in vain."""
    interactions_done_share: dict[str, float]
    """Of the interactions of each tenant, those that were completed."""
    useful_work_s: float | None
    """Engine time received until the end, less that of broken interactions; this and the next three
    are ``None`` where engines are not simulated (:mod:`loadgen.simulation.finishing`)."""
    work_per_interaction_s: float | None
    """Engine time of a completed interaction, mean."""
    work_per_offered_interaction_s: float | None
    """The same of all that were offered: a policy blind to length completes such."""
    interactions_possible: int | None
    """Interactions that the useful work would have finished, the cheapest first."""
    idle_while_waiting_s: float | None
    """Time in which the head of a line fitted and was not granted; ``None``: nobody could see."""
    release_interval_s: float | None
    """Mean time between two releases of capacity: the floor of waiting without preemption."""
    victim_slowdown: float | None = None
    """(p99 TTFT with the abuser - release interval) / p99 TTFT without, of the other tenants, at
    the abuser's worst; ``None`` where nobody abuses."""
    victim_ttft_p99_s: tuple[float, float] | None = None
    """That p99 with the abuser and without, seconds."""
    service_bound: float
    """VTC's bound between tenants, see :mod:`loadgen.simulation.bound`."""
    worst_difference: float
    user_bound: float
    worst_user_difference: float
    bound_violations: int
    """Of both levels."""
    backlogged_pairs: int
    shares: dict[str, float]
    """Each tenant's part of the service while all compete."""
    users: dict[str, UserFigures]
    share_error: float | None
    """Largest relative distance of a tenant's share from its weight's; ``None`` unless all ask for
    more than they get, as with the next one."""
    user_spread: float | None
    """Largest relative distance of a user's normalised service from its tenant's mean."""
    user_gap: float | None
    """The same distance in typical requests."""
    rpm: int
    """Requests per minute that a user may send where limits bite."""
    real: bool = False
    """Measured on a gateway and engines that ran, in real time; else simulated."""


class Conditions(Struct, frozen=True, kw_only=True):
    """What a run was made under."""

    scenario: str
    policy: str
    headroom: float = 0.0
    seed: int
    load: float
    capacity: float
    """Calls per second that the engines can serve."""
    rpm: int


def figures(
    conditions: Conditions, policy: Policy, workload: Workload, recording: Recording,
    without: Recording | None,
) -> Run:  # fmt: skip
    """All figures of ``recording``; ``without`` is the same without the abuser, if there is one."""
    outcomes = recording.outcomes
    tenants, users = _bounds(policy, workload, recording)
    summary = summarise(outcomes, workload.weights)
    worst = max(summary.tenants, key=lambda t: summary.tenants[t].ttft_ms.p99 or 0.0)
    victims = _victims(workload, recording, without)
    ended = endings(outcomes)
    lanes = workload.config.pools[POOL].lanes
    work, done = Work(outcomes, lanes), finishing(outcomes, ended, workload.plan, lanes)
    tpot = tpot_ms(outcomes)
    parts, each_user = shares(outcomes, workload), users_of(outcomes, workload.span_s)
    lost = [o for o in outcomes if o.result == "throttled"]
    return Run(
        **{name: getattr(summary, name) for name in Summary.__struct_fields__},
        scenario=conditions.scenario,
        policy=conditions.policy,
        headroom=conditions.headroom,
        seed=conditions.seed,
        load=conditions.load,
        calls_per_s=conditions.capacity,
        capacity_use=work.use([(0.0, workload.span_s)]),
        capacity_use_waiting=work.use(overlap(backlog(outcomes), [(0.0, workload.span_s)])),
        sequences_use=work.running([(0.0, workload.span_s)]),
        steady_tokens_per_s=Accumulated(outcomes, Price(1, 1)).through(workload.span_s)
        / workload.span_s,
        goodput_per_s=_goodput(outcomes, ended.broken, workload) / workload.span_s,
        tpot_ms={"p50": tpot.p50, "p90": tpot.p90, "p99": tpot.p99},
        worst_ttft_p99_ms=summary.tenants[worst].ttft_ms.p99,
        worst_tenant=worst,
        throttled_by_cause=dict(sorted(Counter(o.reason for o in lost).items())),
        throttled_interactions=len({o.interaction for o in lost if o.interaction}),
        throttled_users=len({(o.tenant, o.user) for o in lost}),
        interactions_completed=len(ended.completed),
        interactions_per_s=len(ended.completed_by(workload.span_s)) / workload.span_s,
        interactions_in_slo=len(ended.completed.keys() - _late(outcomes, workload.slo)),
        interactions_broken=len(ended.broken),
        interactions_refused=len(ended.refused),
        interactions_done_share=done.shares,
        useful_work_s=done.useful_s,
        work_per_interaction_s=done.each_s,
        work_per_offered_interaction_s=done.offered_each_s,
        interactions_possible=done.possible,
        idle_while_waiting_s=recording.idle_while_waiting_s,
        release_interval_s=_release_interval(outcomes, workload),
        victim_slowdown=victims and _slowdown(victims, _release_interval(outcomes, workload)),
        victim_ttft_p99_s=victims,
        service_bound=tenants.bound,
        worst_difference=tenants.worst,
        user_bound=users.bound,
        worst_user_difference=users.worst,
        bound_violations=tenants.violations + users.violations,
        backlogged_pairs=tenants.pairs + users.pairs,
        shares=parts,
        users=each_user,
        share_error=share_error(parts, workload.weights) if workload.contended else None,
        user_spread=user_spread(each_user) if workload.contended else None,
        user_gap=user_gap(each_user) if workload.contended else None,
        rpm=conditions.rpm,
    )


def _bounds(
    policy: Policy, workload: Workload, recording: Recording
) -> tuple[BoundCheck, BoundCheck]:
    resolved = resolve_policy(policy)
    prices = {name: lane.price for name, lane in workload.config.pools[POOL].lanes.items()}
    measured = recording.outcomes, recording.units
    return (
        check_tenants(*measured, workload.weights, resolved, prices),
        check_users(*measured, resolved, prices),
    )


def _goodput(outcomes: Iterable[Outcome], broken: Collection[str], workload: Workload) -> int:
    in_time = (o for o in outcomes if o.end_s <= workload.span_s)
    return sum(_meets(o, workload.slo) and o.interaction not in broken for o in in_time)


def _meets(o: Outcome, slo: Slo) -> bool:
    if o.result != "completed" or o.first_token_s is None:
        return False
    decode_s = (o.end_s - o.first_token_s) / max(1, o.completion_tokens - 1)
    return o.first_token_s - o.intended_s <= slo.ttft_s and decode_s <= slo.tpot_s


def _late(outcomes: Iterable[Outcome], slo: Slo) -> set[str]:
    """Interactions with a call that missed the SLO."""
    return {o.interaction for o in outcomes if o.interaction and not _meets(o, slo)}


def _release_interval(outcomes: Iterable[Outcome], workload: Workload) -> float | None:
    begin_s, end_s = (workload.span_s * part for part in workload.phase)
    released = sum(o.result == "completed" and begin_s <= o.end_s < end_s for o in outcomes)
    return (end_s - begin_s) / released if released else None


def _victims(
    workload: Workload, recording: Recording, without: Recording | None
) -> tuple[float, float] | None:
    """p99 TTFT of the victims at the abuser's worst, with it and without it, seconds."""
    if without is None:
        return None
    begin_s, end_s = (workload.span_s * part for part in workload.phase)
    worst = []
    for outcomes in (recording.outcomes, without.outcomes):
        ttfts = [
            (o.end_s if o.first_token_s is None else o.first_token_s) - o.intended_s
            for o in outcomes
            if o.tenant != workload.abuser and begin_s <= o.intended_s < end_s
        ]  # a victim that was refused or gave up in line counts with the time it lost
        worst.append(percentile(ttfts, 99) or 0.0)
    return worst[0], worst[1]


def _slowdown(victims: tuple[float, float], release_interval_s: float | None) -> float:
    with_abuser, without = victims
    return max(0.0, with_abuser - (release_interval_s or 0.0)) / without
