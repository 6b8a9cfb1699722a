"""Draws calls and chains for scenarios. Starts are in the scenario's own unit: 0 to 1 is its whole
time, which :meth:`~loadgen.simulation.workload.Workload.at_rate` stretches to seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random

from loadgen.records import Call, Chain

Lengths = Callable[[Random], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Sender:
    """A user of a tenant who uses one app."""

    tenant: str
    user: str
    app: str


def around(prompt_tokens: float, output_tokens: float, spread: float = 0.3) -> Lengths:
    """Log-normal lengths with these means; ``spread`` is the sigma."""

    def draw(random: Random) -> tuple[int, int]:
        return _lognormal(random, prompt_tokens, spread), _lognormal(random, output_tokens, spread)

    return draw


def out_of(known: Sequence[tuple[int, int]]) -> Lengths:
    """Lengths of one of ``known``, prompt and output together."""
    return lambda random: random.choice(known)


def poisson(n: float, random: Random, start: float = 0.0, end: float = 1.0) -> list[float]:
    """Arrivals of a Poisson process that makes ``n`` between ``start`` and ``end``."""
    return sorted(random.uniform(start, end) for _ in range(round(n)))


def singles(
    sender: Sender, starts: Iterable[float], lengths: Lengths, random: Random
) -> list[Chain]:
    """Calls that stand alone."""
    return [Chain(start, (_call(sender, *lengths(random)),)) for start in starts]


def interaction(
    sender: Sender, start: float, name: str, sizes: Sequence[tuple[int, int]],
    think_s: Callable[[], float],
) -> Chain:  # fmt: skip
    """Calls that follow each other; ``sizes`` are their prompt and output tokens."""
    calls = (
        replace(
            _call(sender, *size),
            interaction=name,
            number=number,
            calls=len(sizes),
            think_s=think_s() if number else 0.0,
        )
        for number, size in enumerate(sizes)
    )
    return Chain(start, tuple(calls))


def plan_of(*parts: Iterable[Chain]) -> list[Chain]:
    """All chains in order of their start, with their calls numbered."""
    chains = sorted((c for part in parts for c in part), key=lambda chain: chain.start_s)
    numbers = count()
    return [
        replace(chain, calls=tuple(replace(call, index=next(numbers)) for call in chain.calls))
        for chain in chains
    ]


def _call(sender: Sender, prompt_tokens: int, output_tokens: int) -> Call:
    return Call(
        index=0,
        tenant=sender.tenant,
        user=sender.user,
        app=sender.app,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
    )


def _lognormal(random: Random, mean: float, spread: float) -> int:
    return max(1, round(mean * random.lognormvariate(-(spread**2) / 2, spread)))
