"""A site of one's own: what a ``fairgate.yaml`` says, made fit to be simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from msgspec.structs import replace as replace_struct

from fairgate.config import Config, Key, Lane, Policy, Pool, SimulatedEngine, Tenant, reading
from fairgate.engines.simulated.scheduler import MAX_NUM_BATCHED_TOKENS
from fairgate.errors import ConfigError
from loadgen.arrivals import Arrivals, Lengths
from loadgen.errors import SpecError
from loadgen.plan import build_plan
from loadgen.simulation.modelled import modelled, profile_of_lane
from loadgen.simulation.scenarios import Build, Scenario
from loadgen.simulation.sources import LONGEST_PROMPT, Source
from loadgen.simulation.work import named_engines
from loadgen.simulation.workload import POOL, Workload, key_of
from loadgen.tenants import Skew
from loadgen.tenants import Tenant as Sender
from loadgen.traces import read_traces

_USERS = 10
_SAMPLE = 400
_PROMPT_PART = 0.8
"""Of what an engine holds for one call; the rest is for its answer."""


@dataclass(frozen=True, slots=True)
class Site:
    """Tenants, apps, and one pool whose engines are simulated. ``source`` is the file's name."""

    config: Config
    source: str

    @property
    def policy(self) -> Policy:
        """Of the pool."""
        policy = self.config.pools[POOL].policy
        return Policy(preset=policy) if isinstance(policy, str) else policy

    @property
    def room(self) -> int:
        """Tokens of the longest call that every engine takes."""
        lanes = self.config.pools[POOL].lanes
        contexts = [lane.context_tokens for lane in lanes.values() if lane.context_tokens]
        caches = [engine.kv_cache_tokens for _, engine in named_engines(lanes)]
        return min(caches + contexts)


def read_site(path: Path, pool: str, profile: str) -> Site:
    """The site of a configuration file. ``pool`` may be empty where there is one only.

    ``profile``: timing of engines that are not simulated in the file, ``cpu-LANE`` unless given.
    Raises ``SpecError``.
    """
    try:
        found = reading.load(path)
    except ConfigError as error:
        raise SpecError(f"--config: {error}") from error
    if not found.tenants:
        raise SpecError(f"--config {path}: tenants: expected at least one, got none")
    chosen = _pool(path, found.pools, pool)
    lanes = {
        name: _lane(lane, name, profile, f"--config {path}: lane {name}")
        for name, lane in chosen.lanes.items()
    }
    site = Config(
        pools={POOL: replace_struct(chosen, lanes=lanes)},
        tenants={name: _reachable(name, tenant) for name, tenant in found.tenants.items()},
        apps=found.apps,
    )
    return Site(site, str(path))


def with_trace(
    site: Site, traces: list[str], shares: Mapping[str, float], n: int, seed: int, source: Source
) -> Workload:
    """Your own traffic on your own site: the traces' requests, cut to what the engines take, spread
    over the tenants of the configuration in interactions, under their own weights and limits."""
    requests = Arrivals(limit=n).fit(read_traces(traces))
    longest = min(LONGEST_PROMPT, int(site.room * _PROMPT_PART))
    lengths = Lengths(max_prompt=longest, max_output=site.room - longest)
    fitted = [lengths.fit(request) for request in requests]
    named = sorted({request.app for request in fitted if request.app})
    tenants = {name: _sender(site, name, named, shares) for name in site.config.tenants}
    plan = build_plan(fitted, tenants, skew=Skew("zipf", 1.0), think_s=1.0, seed=seed)
    return Workload(config=site.config, plan=plan, own_limits=True)


def with_scenario(site: Site, build: Build, n: int, seed: int, source: Source) -> Workload:
    """The calls, tenants and limits of a scenario on the lanes of one's own configuration."""
    drawn = build(n, seed, source)
    return replace(drawn, config=replace_struct(drawn.config, pools=site.config.pools))


def check_scenario(site: Site, scenario: Scenario) -> None:
    """Raises ``SpecError`` for one with lanes of its own, or with calls too long for the site."""
    drawn = scenario.build(_SAMPLE, 0, Source())
    if len(drawn.config.pools[POOL].lanes) > 1:
        raise SpecError(f"{scenario.name}: has lanes of its own, which --config would replace")
    longest = max(c.prompt_tokens + c.output_tokens for chain in drawn.plan for c in chain.calls)
    if longest > site.room:
        raise SpecError(
            f"{scenario.name}: has calls of {longest} tokens, the engines of --config "
            f"{site.source} take {site.room}"
        )


def read_shares(text: str, site: Site) -> dict[str, float]:
    """``NAME=SHARE,…``: of the requests, relative to each other; who is not named gets 1."""
    shares = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        if name not in site.config.tenants:
            known = ", ".join(site.config.tenants)
            raise SpecError(f"--shares: {name}: not a tenant of {site.source}; they are {known}")
        try:
            shares[name] = float(number)
        except ValueError:
            shares[name] = 0.0
        if not 0 < shares[name] < float("inf"):
            raise SpecError(f"--shares: {name}: expected a number > 0, got {number!r}")
    return shares


def _pool(path: Path, pools: Mapping[str, Pool], name: str) -> Pool:
    if not name and len(pools) == 1:
        return next(iter(pools.values()))
    if name in pools:
        return pools[name]
    known = ", ".join(pools)
    if name:
        raise SpecError(f"--pool {name}: not a pool of {path}; they are {known}")
    raise SpecError(f"--config {path}: has the pools {known}; choose one with --pool")


def _lane(lane: Lane, name: str, profile: str, where: str) -> Lane:
    chosen = profile_of_lane(name, profile)
    real = [e for e in lane.engines if not isinstance(e, SimulatedEngine)]
    if real and chosen is None:
        raise SpecError(f"{where}: tell how fast its engines are simulated with --profile")
    engines = tuple(modelled(engine, chosen or "") for engine in lane.engines)
    for engine in engines:
        if engine.max_num_seqs > MAX_NUM_BATCHED_TOKENS:
            raise SpecError(
                f"{where}: max_num_seqs: a simulated engine runs at most "
                f"{MAX_NUM_BATCHED_TOKENS}, got {engine.max_num_seqs}"
            )
    # The simulation knows token counts, not texts.
    return replace_struct(lane, engines=engines, tokenizer="ratio")


def _reachable(name: str, tenant: Tenant) -> Tenant:
    """With the key of the simulation's clients: of its own only hashes are known."""
    key = Key(sha256=sha256(key_of(name).encode()).hexdigest())
    return replace_struct(tenant, keys=(key,))


def _sender(site: Site, name: str, named: Sequence[str], shares: Mapping[str, float]) -> Sender:
    """How a tenant sends: as the only app that it may, else as the apps that the traces name."""
    apps = site.config.tenants[name].apps or tuple(site.config.apps)
    for app in named:
        if len(apps) > 1 and app not in apps:
            raise SpecError(
                f"--config {site.source}: tenants.{name}: may not name the app {app} of the "
                f"trace; its apps are {', '.join(apps)}"
            )
    own = apps[0] if len(apps) == 1 or not named else None
    share = shares.get(name, 1.0) if shares else None
    return Sender(key="", share=share, app=own, users=_USERS)
