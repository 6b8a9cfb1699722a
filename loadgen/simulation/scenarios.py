"""The scenarios by name; the docstring of each says what it isolates.

Every function draws one scenario with about ``n`` calls. The same seed draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from types import MappingProxyType
from typing import Final

from fairgate.config import Config, Lane, SimulatedEngine
from loadgen.arrivals import Arrivals, Lengths
from loadgen.interactions import draw_length
from loadgen.plan import build_plan
from loadgen.records import Chain
from loadgen.simulation.drawing import (
    Sender,
    around,
    interaction,
    out_of,
    plan_of,
    poisson,
    singles,
)
from loadgen.simulation.sources import LONGEST_PROMPT, Source
from loadgen.simulation.workload import Workload, a100, site
from loadgen.tenants import Skew, Tenant
from loadgen.traces import read_traces

Build = Callable[[int, int, Source], Workload]

DEADLINE_S: Final = 30.0
"""Longest wait in line where users have a limit: thrice the time to first token of the SLO."""

CHAT = around(250, 150)


@dataclass(frozen=True, slots=True)
class Scenario:
    """How to draw it, and what load it has unless ``--load`` says otherwise."""

    name: str
    build: Build
    load: float
    """Offered load, 1.0 being what the engines can serve."""

    @property
    def about(self) -> str:
        """What it isolates."""
        drawn_by = self.build.func if isinstance(self.build, partial) else self.build
        return " ".join((drawn_by.__doc__ or "").split())


def two_users(n: int, seed: int, source: Source) -> Workload:
    """FairServe's synthetic trace: in one tenant, a user of a 4-call app (200/100 tokens) against
    one of a 1-call app (50/50) at twice the call rate; isolates app normalisation and
    continuations."""
    random = _random("two-users", seed)
    agentic, single = Sender("acme", "agentic", "agentic"), Sender("acme", "single", "single")
    large, small = around(200, 100, 0.2), around(50, 50, 0.2)
    runs = [
        interaction(agentic, start, f"run-{k}", [large(random) for _ in range(4)], lambda: 0.0)
        for k, start in enumerate(poisson(n * 2 / 3 / 4, random))
    ]
    alone = singles(single, poisson(n / 3, random), small, random)
    return Workload(
        config=site({"acme": 1.0}, ["agentic", "single"], [a100(64)]), plan=plan_of(runs, alone)
    )


def azure_apps(n: int, seed: int, source: Source) -> Workload:
    """Azure's code and conversation traces as two apps, with their own bursts, over eight tenants
    as unequal as ServeGen's clients, in interactions; isolates overload gating: who is refused when
    there is room on average."""
    tenants = {f"tenant-{k}": Tenant(key="", users=40) for k in range(1, 9)}
    plan = build_plan(
        source.azure(n, seed), tenants, skew=Skew("lognormal", 2.7), think_s=1.0, seed=seed
    )
    config = site(dict.fromkeys(tenants, 1.0), ["code", "conversation"], queue_s=DEADLINE_S)
    return Workload(config=config, plan=plan, limited=True)


def agents(n: int, seed: int, source: Source) -> Workload:
    """Agent runs of 1 to 60 calls whose prompts grow, beside single chats, from six tenants that
    come in bursts; isolates interaction awareness: work that is lost with a broken run."""
    random = _random("agents", seed)
    sizes = around(1.0, 120, 0.5)
    chains: list[Chain] = []
    calls = 0
    while calls < 0.8 * n:
        tenant = random.choices(range(6), [6, 4, 3, 2, 1, 1])[0]
        sender = Sender(f"team-{tenant}", f"dev-{random.randrange(5)}", "agent")
        length = min(60, draw_length(random) + draw_length(random) * 2)
        prompts = [(600 + 200 * k, sizes(random)[1]) for k in range(length)]
        start = random.choice(_bursts(seed, tenant)) + random.uniform(0, 0.02)
        chains.append(
            interaction(sender, start, f"run-{len(chains)}", prompts, lambda: random.expovariate(1))
        )
        calls += length
    for tenant in range(6):
        sender = Sender(f"team-{tenant}", "chatter", "chat")
        chains += singles(sender, poisson(0.2 * n / 6, random), CHAT, random)
    names = [f"team-{k}" for k in range(6)]
    config = site(dict.fromkeys(names, 1.0), ["agent", "chat"], queue_s=DEADLINE_S)
    return Workload(config=config, plan=plan_of(chains), limited=True)


def crowd(n: int, seed: int, source: Source) -> Workload:
    """Many users of one tenant, each with one run of four calls, a little more than the engines
    serve; isolates the head start of running interactions: are they finished or all half done?"""
    random = _random("crowd", seed)
    size = around(400, 150)
    runs = [
        interaction(
            Sender("acme", f"user-{k}", "agent"), start, f"run-{k}",
            [size(random) for _ in range(4)], lambda: random.expovariate(2),
        )
        for k, start in enumerate(poisson(n / 4, random))
    ]  # fmt: skip
    config = site({"acme": 1.0}, ["agent"], [a100(64)], queue_s=60.0)
    return Workload(config=config, plan=plan_of(runs))


def on_off(n: int, seed: int, source: Source) -> Workload:
    """A tenant that sends more than all capacity, and one that does so too but pauses between 30 %
    and 60 % of the time; isolates the lift: idling must earn no credit for later."""
    random = _random("on-off", seed)
    steady, pausing = Sender("steady", "s", "chat"), Sender("pausing", "p", "chat")
    part = n / 1.7
    on = [*poisson(part * 0.3, random, 0, 0.3), *poisson(part * 0.4, random, 0.6, 1.0)]
    chats = singles(steady, poisson(part, random), CHAT, random)
    chats += singles(pausing, on, CHAT, random)
    return Workload(config=_chat_site("steady", "pausing"), plan=plan_of(chats))


def weights(n: int, seed: int, source: Source) -> Workload:
    """Four tenants with the weights 1:2:3:4 who all ask for more than they can get; isolates
    weighted shares."""
    random = _random("weights", seed)
    names = {f"weight-{k}": float(k) for k in (1, 2, 3, 4)}
    chats = [
        singles(Sender(name, "u", "chat"), poisson(n / 4, random), CHAT, random) for name in names
    ]
    config = site(names, ["chat"], [a100(64)], queue_s=3600.0)
    return Workload(config=config, plan=plan_of(*chats), contended=True)


def abuser(n: int, seed: int, source: Source) -> Workload:
    """Four tenants well below their share, and a fifth that goes from their rate to 5, 20 and 50
    times it; isolates what one tenant can do to the others."""
    random = _random("abuser", seed)
    lengths = out_of(source.lengths("conversation", 2000, seed))
    each = n / 8
    calm = [
        singles(Sender(f"victim-{k}", f"v{k % 2}", "chat"), poisson(each, random), lengths, random)
        for k in range(4)
    ]
    ramp = ((1, 0.0, 0.15), (5, 0.15, 0.3), (20, 0.3, 0.5), (50, 0.5, 1.0))
    flood = [
        start
        for factor, begin, end in ramp
        for start in poisson(each * factor * (end - begin), random, begin, end)
    ]
    storm = singles(Sender("abuser", "a", "chat"), flood, lengths, random)
    names = [*(f"victim-{k}" for k in range(4)), "abuser"]
    return Workload(
        config=site(dict.fromkeys(names, 1.0), ["chat"], [a100(64)] * 4),
        plan=plan_of(*calm, storm),
        base_calls=round(5 * each),
        abuser="abuser",
        phase=(0.5, 1.0),
    )


def heavy_app(n: int, seed: int, source: Source) -> Workload:
    """In one tenant, users of an app with long prompts beside users of a chat; a second tenant only
    chats; a third chats too but names the heavy app for it. All ask for more than they get.
    Isolates app normalisation between users, and raw accounting between tenants."""
    random = _random("heavy-app", seed)
    document = around(4000, 100)
    senders = [
        *((Sender("mixed", f"reader-{k}", "documents"), document, 0.06) for k in range(2)),
        *((Sender("mixed", f"chatter-{k}", "chat"), CHAT, 0.12) for k in range(2)),
        *((Sender("plain", f"chatter-{k}", "chat"), CHAT, 0.16) for k in range(2)),
        *((Sender("posing", f"chatter-{k}", "documents"), CHAT, 0.16) for k in range(2)),
    ]
    parts = [
        singles(sender, poisson(n * share, random), lengths, random)
        for sender, lengths, share in senders
    ]
    names = dict.fromkeys(("mixed", "plain", "posing"), 1.0)
    config = site(names, ["documents", "chat"], [a100(64)], queue_s=3600.0)
    return Workload(config=config, plan=plan_of(*parts), contended=True)


def shift(n: int, seed: int, source: Source) -> Workload:
    """Two users of two apps in one tenant; half-way one app's answers get five times as long;
    isolates how fast the learned profile of an app follows."""
    random = _random("shift", seed)
    still, moving = Sender("acme", "still", "chat"), Sender("acme", "moving", "report")
    parts = [
        singles(still, poisson(n / 2, random), CHAT, random),
        singles(moving, poisson(n / 4, random, 0, 0.5), around(250, 100), random),
        singles(moving, poisson(n / 4, random, 0.5, 1), around(250, 500), random),
    ]
    config = site({"acme": 1.0}, ["chat", "report"], [a100(64)], queue_s=600.0)
    return Workload(config=config, plan=plan_of(*parts))


def mixed_lanes(n: int, seed: int, source: Source) -> Workload:
    """A small and a large model in one pool at prices 1 and 3: one tenant uses the small one, one
    the large one, one leaves it to the router; isolates one ledger over several lanes."""
    random = _random("mixed-lanes", seed)
    lanes = {
        "small": Lane(engines=(_cpu("cpu-small", 32),), price=1.0),
        "large": Lane(engines=(_cpu("cpu-large", 16),), price=3.0),
    }
    senders = {"quick": ("small", 0.5), "deep": ("large", 0.2), "any": ("auto", 0.3)}
    parts = [
        singles(Sender(tenant, "u", model), poisson(n * share, random), around(128, 64), random)
        for tenant, (model, share) in senders.items()
    ]
    models = {"small": "small", "large": "large"}
    config = site(dict.fromkeys(senders, 1.0), ["small", "large", "auto"], lanes=lanes)
    return Workload(config=config, plan=plan_of(*parts), models=models)


def replicas(n: int, seed: int, source: Source) -> Workload:
    """Three tenants, one of them three times as loud, over four gateways that share the ledger;
    isolates what is lost by not having one process decide."""
    random = _random("replicas", seed)
    lengths = out_of(source.lengths("conversation", 2000, seed))
    shares = {"loud": 0.6, "calm-1": 0.2, "calm-2": 0.2}
    parts = [
        singles(Sender(name, f"u{k}", "chat"), poisson(n * share / 2, random), lengths, random)
        for name, share in shares.items()
        for k in range(2)
    ]
    return Workload(config=_chat_site(*shares), plan=plan_of(*parts), gateways=4)


def of_trace(traces: list[str], n: int, seed: int, source: Source) -> Workload:
    """Your own traffic: the traces' requests, cut to length, spread over six unequal tenants in
    interactions; every user has the same limit of requests per minute."""
    requests = Arrivals(limit=n).fit(read_traces(traces))
    lengths = Lengths(max_prompt=LONGEST_PROMPT, max_output=LONGEST_PROMPT // 4)
    named = [lengths.fit(replace(r, app=r.app or "default")) for r in requests]
    tenants = {f"tenant-{k}": Tenant(key="", users=10) for k in range(1, 7)}
    plan = build_plan(named, tenants, skew=Skew("zipf", 1.0), think_s=1.0, seed=seed)
    apps = sorted({request.app for request in named if request.app})
    return Workload(config=site(dict.fromkeys(tenants, 1.0), apps), plan=plan, limited=True)


SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {
        name: Scenario(name, build, load)
        for name, build, load in (
            ("two-users", two_users, 1.5),
            ("azure-apps", azure_apps, 0.8),
            ("agents", agents, 0.8),
            ("crowd", crowd, 1.3),
            ("on-off", on_off, 2.0),
            ("weights", weights, 2.4),
            ("abuser", abuser, 0.5),
            ("heavy-app", heavy_app, 3.0),
            ("shift", shift, 1.5),
            ("mixed-lanes", mixed_lanes, 1.3),
            ("replicas", replicas, 1.3),
        )
    }
)


def _random(name: str, seed: int) -> Random:
    return Random(f"{name} {seed}")  # noqa: S311  reproducible load, not a secret


def _bursts(seed: int, tenant: int) -> list[float]:
    random = Random(f"bursts {seed} {tenant}")  # noqa: S311
    return [random.uniform(0, 0.98) for _ in range(12)]


def _chat_site(*tenants: str) -> Config:
    return site(dict.fromkeys(tenants, 1.0), ["chat"], [a100(64)])


def _cpu(profile: str, sequences: int) -> SimulatedEngine:
    return SimulatedEngine(profile=profile, max_num_seqs=sequences, kv_cache_tokens=512 * sequences)
