"""What is simulated: a site (tenants, apps, engines) and the calls that reach it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from heapq import heapify, heappop, heappush
from typing import Final

from msgspec.structs import replace as replace_struct

from fairgate.config import (
    App,
    Config,
    Key,
    Lane,
    Limits,
    Policy,
    Pool,
    Queue,
    SimulatedEngine,
    Tenant,
)
from loadgen.records import Chain

POOL = "sim"
LANE = "main"

REFUSED_BY_RPM: Final = 0.3
"""Share of the calls that the limits of ``rpm`` are set to refuse: the middle of 20 to 40 %."""


@dataclass(frozen=True, slots=True)
class Slo:
    """What a user takes for good service, per call."""

    ttft_s: float = 10.0
    """From the intended start to the first token."""
    tpot_s: float = 0.5
    """Per output token after the first, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One scenario, drawn with one seed. Chains are in order of their start, in seconds."""

    config: Config
    plan: Sequence[Chain]
    gateways: int = 1
    models: Mapping[str, str] = field(default_factory=dict)
    """Model that the calls of an app ask for; others leave it to the router."""
    base_calls: int = 0
    """Calls that the offered load counts; 0: all. An abuser's flood comes on top of it."""
    abuser: str = ""
    """Tenant that is left out for the comparison without it."""
    phase: tuple[float, float] = (0.0, 1.0)
    """Part of the time in which the abuser is at its worst, as shares of the whole."""
    limited: bool = False
    """Every user has a limit of requests per minute under every policy; else only under ``rpm``,
    which is nothing without one."""
    own_limits: bool = False
    """Its tenants have limits of their own, or none on purpose: those stay as they are."""
    contended: bool = False
    """All tenants, and all users of each, ask for more than they get from the start to the end."""
    caps_output: bool = False
    """Calls say how long their answer may get (``max_tokens``): just as long as it will be."""
    slo: Slo = Slo()

    @property
    def weights(self) -> dict[str, float]:
        """Of every tenant."""
        return {name: tenant.weight for name, tenant in self.config.tenants.items()}

    @property
    def span_s(self) -> float:
        """From the first to the last start of a chain."""
        return self.plan[-1].start_s - self.plan[0].start_s

    @property
    def calls(self) -> int:
        """Calls of all chains."""
        return sum(len(chain.calls) for chain in self.plan)

    def under(self, policy: Policy) -> Workload:
        """The same under another policy."""
        pool = replace_struct(self.config.pools[POOL], policy=policy)
        return replace(self, config=replace_struct(self.config, pools={POOL: pool}))

    def at_rate(self, calls_per_s: float) -> Workload:
        """Stretch the starts so that ``base_calls`` come at this mean rate; thinking stays."""
        scale = (self.base_calls or self.calls) / calls_per_s / self.span_s
        first_s = self.plan[0].start_s
        plan = [replace(c, start_s=(c.start_s - first_s) * scale) for c in self.plan]
        return replace(self, plan=plan)

    def without_abuser(self) -> Workload:
        """The same calls but the abuser's."""
        plan = [chain for chain in self.plan if chain.calls[0].tenant != self.abuser]
        return replace(self, plan=plan)

    def with_user_rpm(self, rpm: int) -> Workload:
        """Every user gets the same limit of requests per minute; 0: none."""
        tenants = {
            name: replace_struct(tenant, user_limits=Limits(rpm=rpm or None))
            for name, tenant in self.config.tenants.items()
        }
        return replace(self, config=replace_struct(self.config, tenants=tenants))

    def with_limits(self, preset: str) -> tuple[Workload, int]:
        """With limits as the scenario, or ``preset``, wants them; and the requests per minute that
        every user got, the least that refuse no more than :data:`REFUSED_BY_RPM`; 0: none."""
        if self.own_limits:
            return self, 0
        rpm = 0
        if self.limited or preset == "rpm":
            rpm = rpm_that_refuses(self.without_abuser().plan, REFUSED_BY_RPM)
        return self.with_user_rpm(rpm), rpm

    def with_headroom(self, share: float) -> Workload:
        """Every lane keeps this share of its sequences for tenants below their share."""
        return self.with_lanes(lambda lane: replace_struct(lane, headroom=share))

    def with_deadline(self, timeout_s: float) -> Workload:
        """Nobody waits in line for longer, nor gives up before."""

        def changed(lane: Lane) -> Lane:
            queue = replace_struct(
                lane.queue, timeout_s=timeout_s, continuation_timeout_s=timeout_s
            )
            return replace_struct(lane, queue=queue)

        return self.with_lanes(changed)

    def with_lanes(self, change: Callable[[Lane], Lane]) -> Workload:
        """The same with every lane changed."""
        pool = self.config.pools[POOL]
        lanes = {name: change(lane) for name, lane in pool.lanes.items()}
        pools = {POOL: replace_struct(pool, lanes=lanes)}
        return replace(self, config=replace_struct(self.config, pools=pools))


def key_of(tenant: str) -> str:
    """The API key of a simulated tenant."""
    return f"sim-{tenant}"


def site(
    tenants: Mapping[str, float],
    apps: Sequence[str],
    engines: Sequence[SimulatedEngine] | None = None,
    *,
    lanes: Mapping[str, Lane] | None = None,
    queue_s: float = 120.0,
) -> Config:
    """A configuration: ``tenants`` with their weights, one lane of ``engines`` or several lanes."""
    queue = Queue(timeout_s=queue_s)
    lanes = lanes or {LANE: Lane(engines=tuple(engines or (a100(),)), queue=queue)}
    return Config(
        pools={POOL: Pool(lanes=dict(lanes))},
        tenants={
            name: Tenant(
                weight=weight,
                keys=(Key(sha256=sha256(key_of(name).encode()).hexdigest()),),
            )
            for name, weight in tenants.items()
        },
        apps={app: App() for app in apps},
    )


def a100(max_num_seqs: int = 128) -> SimulatedEngine:
    """Llama-2-70B on A100s, by default with as many sequences as its SLO allows when all run."""
    return SimulatedEngine(
        profile="a100-70b", max_num_seqs=max_num_seqs, kv_cache_tokens=2048 * max_num_seqs
    )


_USUAL_CALL_S = 8.0


def refused_share(plan: Sequence[Chain], rpm: int) -> float:
    """Share of the calls sent that a limit of ``rpm`` per user and minute would refuse.

    An estimate, to choose the limit by: each call takes a usual time, and a refused one ends its
    chain. What the scripts then refuse is in the figures.
    """
    due = [(chain.start_s, index, 0) for index, chain in enumerate(plan)]
    heapify(due)
    admitted: defaultdict[tuple[str, str | None], deque[float]] = defaultdict(deque)
    sent = refused = 0
    while due:
        at_s, index, number = heappop(due)
        calls = plan[index].calls
        recent = admitted[calls[0].tenant, calls[0].user]
        while recent and recent[0] <= at_s - 60:
            recent.popleft()
        sent += 1
        if len(recent) >= rpm:
            refused += 1
            continue
        recent.append(at_s)
        if number + 1 < len(calls):
            next_s = at_s + _USUAL_CALL_S + calls[number + 1].think_s
            heappush(due, (next_s, index, number + 1))
    return refused / sent


def rpm_that_refuses(plan: Sequence[Chain], share: float) -> int:
    """The least limit per user that refuses no more than ``share`` of the calls."""
    low, high = 1, max(2, sum(len(chain.calls) for chain in plan))
    while low < high:
        middle = (low + high) // 2
        if refused_share(plan, middle) > share:
            low = middle + 1
        else:
            high = middle
    return low
