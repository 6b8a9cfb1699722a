"""Decide before the replay begins which call is sent when, for whom, and after which other.

A plan is data and a pure function of its inputs and the seed: a real replay and a simulation of the
same arguments see the same load. Each kind of draw has random numbers of its own, so that adding a
flood changes nothing for the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from loadgen.floods import Flood
from loadgen.interactions import split
from loadgen.records import Call, Chain, TraceRequest
from loadgen.tenants import Population, Skew, Tenant


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A trace request that has found its sender."""

    request: TraceRequest
    tenant: str
    user: str | None
    app: str | None


def build_plan(
    trace: Sequence[TraceRequest],
    tenants: Mapping[str, Tenant],
    *,
    skew: Skew | None = None,
    floods: Sequence[Flood] = (),
    think_s: float | None = None,
    seed: int = 0,
) -> list[Chain]:
    """Chains in order of their start.

    ``trace`` is already fitted (:class:`loadgen.arrivals.Arrivals`). ``think_s`` synthesises
    interactions with that mean (exponential) pause between calls; ``None`` leaves single calls.
    Raises ``SpecError`` for a flood that has nothing to be measured against.
    """
    population = Population(tenants, skew or Skew(), seed)
    arrivals = [_assign(request, population, tenants) for request in trace]
    extra = [
        arrival
        for number, flood in enumerate(floods)
        for arrival in _flooding(flood, arrivals, tenants, population, f"flood {number} {seed}")
    ]
    if think_s is None:
        chains = [_single(arrival) for arrival in arrivals + extra]
    else:
        chains = [_single(arrival) for arrival in extra]
        chains.extend(_interactions(arrivals, think_s, Random(f"interactions {seed}")))  # noqa: S311
    return _numbered(sorted(chains, key=lambda chain: chain.start_s))


def _assign(
    request: TraceRequest, population: Population, tenants: Mapping[str, Tenant]
) -> _Arrival:
    tenant, user = population.draw(request.session)
    return _Arrival(request, tenant, user, tenants[tenant].app or request.app)


def _flooding(
    flood: Flood,
    arrivals: Sequence[_Arrival],
    tenants: Mapping[str, Tenant],
    population: Population,
    seed: str,
) -> Iterator[_Arrival]:
    """Poisson arrivals (sorted uniform ones) with lengths drawn from the trace's own."""
    random = Random(seed)  # noqa: S311  reproducible load
    size = flood.size([(a.request.at_s, a.tenant) for a in arrivals], len(tenants))
    for _ in range(size):
        request = random.choice(arrivals).request
        yield _Arrival(
            replace(request, at_s=random.uniform(flood.start_s, flood.end_s)),
            flood.tenant,
            population.draw_user(flood.tenant, random),
            tenants[flood.tenant].app or request.app,
        )


def _single(arrival: _Arrival) -> Chain:
    return Chain(arrival.request.at_s, (_call(arrival),))


def _call(arrival: _Arrival) -> Call:
    return Call(
        index=0,
        tenant=arrival.tenant,
        user=arrival.user,
        app=arrival.app,
        prompt_tokens=arrival.request.prompt_tokens,
        output_tokens=arrival.request.output_tokens,
    )


def _interactions(arrivals: Sequence[_Arrival], think_s: float, random: Random) -> Iterator[Chain]:
    senders: defaultdict[tuple[str, str | None, str | None], list[_Arrival]] = defaultdict(list)
    for arrival in arrivals:
        senders[arrival.tenant, arrival.user, arrival.app].append(arrival)
    number = 0
    for sent in senders.values():
        for start_s, part in split([arrival.request.at_s for arrival in sent], random):
            number += 1
            yield Chain(start_s, tuple(_linked(sent[part], f"i{number}", think_s, random)))


def _linked(
    arrivals: Sequence[_Arrival], interaction: str, think_s: float, random: Random
) -> Iterator[Call]:
    for number, arrival in enumerate(arrivals):
        yield replace(
            _call(arrival),
            interaction=interaction,
            number=number,
            calls=len(arrivals),
            think_s=random.expovariate(1 / think_s) if number and think_s else 0.0,
        )


def _numbered(chains: Sequence[Chain]) -> list[Chain]:
    index = iter(range(sum(len(chain.calls) for chain in chains)))
    return [
        replace(chain, calls=tuple(replace(call, index=next(index)) for call in chain.calls))
        for chain in chains
    ]
