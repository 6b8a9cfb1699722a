"""Makes a scenario small enough for engines on one machine: fewer and shorter calls, less time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from msgspec.structs import replace as replace_struct

from fairgate import config
from loadgen.errors import SpecError
from loadgen.measurement.engines import Engines
from loadgen.records import Call, Chain
from loadgen.simulation.capacity import sampled
from loadgen.simulation.scenarios import Scenario
from loadgen.simulation.sources import Source
from loadgen.simulation.workload import POOL, Workload

_SAMPLE_CALLS = 1000
_FEWEST_CALLS = 50
_ALONE_CALLS = 3
_LONGEST_RUN = 2.0
_PATIENT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How a scenario is made small. One of ``calls`` and ``seconds`` is given."""

    tokens: float
    """Multiplies all lengths."""
    calls: int | None = None
    """About so many calls."""
    seconds: float | None = None
    """Time in which the calls of the offered load come."""


def check_site(scenario: Scenario) -> None:
    """Raises ``SpecError`` for a scenario that one gateway over one lane cannot show."""
    drawn = scenario.build(_FEWEST_CALLS, 0, Source())
    lanes = drawn.config.pools[POOL].lanes
    if len(lanes) > 1:
        raise SpecError(f"{scenario.name}: has the lanes {', '.join(lanes)}; one can be measured")
    if drawn.gateways > 1:
        raise SpecError(f"{scenario.name}: has {drawn.gateways} gateways; one can be measured")


def sample(scenario: Scenario, scale: Scale, seed: int, source: Source) -> Workload:
    """A short draw of ``scenario``, to measure what the engines can serve of it."""
    return _shortened(scenario.build(_SAMPLE_CALLS, seed, source), scale.tokens)


def draw(
    scenario: Scenario, scale: Scale, seed: int, source: Source, *, calls_per_s: float
) -> Workload:
    """The scenario when calls of the offered load come at ``calls_per_s``.

    Nobody waits in line for longer than the calls come, so that a run ends soon after them.
    """
    calls = scale.calls
    if calls is None:
        probe = scenario.build(_SAMPLE_CALLS, seed, source)
        counted = probe.base_calls or probe.calls
        wanted = (scale.seconds or 0.0) * calls_per_s
        calls = max(_FEWEST_CALLS, round(_SAMPLE_CALLS * wanted / counted))
    drawn = _shortened(scenario.build(calls, seed, source), scale.tokens)
    paced = drawn.at_rate(calls_per_s)
    (lane,) = paced.config.pools[POOL].lanes.values()
    return paced.with_deadline(min(lane.queue.timeout_s, paced.span_s))


def check_lengths(workload: Workload, engines: Engines, *, name: str, tokens: float) -> None:
    """Raises ``SpecError`` when a call is too long for the engines."""
    longest = max(c.prompt_tokens + c.output_tokens for chain in workload.plan for c in chain.calls)
    room = engines.context_tokens
    if room is not None and longest > room:
        raise SpecError(
            f"--scale-tokens {tokens:g}: the longest call of {name} has {longest} tokens, the "
            f"engines take {room}: give at most {tokens * room / longest:.3f}"
        )


def on_engines(
    workload: Workload, engines: Sequence[config.Engine], model: str | None = None
) -> Workload:
    """The same site with other engines in its lane; ``model`` is what they call their model."""
    return workload.with_lanes(
        lambda lane: replace_struct(lane, engines=tuple(engines), model=model)
    )


def alone(workload: Workload, seed: int) -> Workload:
    """A few of its calls, one after the other, where nobody gives up either."""
    chosen = sampled(workload, f"alone {seed}", _ALONE_CALLS)
    calls = tuple(replace(call, number=number) for number, call in enumerate(chosen))
    return replace(workload, plan=[Chain(0.0, calls)]).with_deadline(_PATIENT_S)


def longest_s(workload: Workload) -> float:
    """After so many seconds a run is cut off: a client hangs, or an engine."""
    thinking = max(sum(call.think_s for call in chain.calls) for chain in workload.plan)
    return 120.0 + thinking + _LONGEST_RUN * workload.span_s


def _shortened(workload: Workload, tokens: float) -> Workload:
    """Shorter calls that say, as those who force a length must, how long the answer may get."""
    plan = [
        replace(chain, calls=tuple(_short(call, tokens) for call in chain.calls))
        for chain in workload.plan
    ]
    apps = {
        name: replace_struct(app, expected_output_tokens=_times(app.expected_output_tokens, tokens))
        for name, app in workload.config.apps.items()
    }
    site = replace_struct(workload.config, apps=apps)
    return replace(workload, plan=plan, config=site, caps_output=True)


def _short(call: Call, tokens: float) -> Call:
    return replace(
        call,
        prompt_tokens=_times(call.prompt_tokens, tokens),
        output_tokens=_times(call.output_tokens, tokens),
    )


def _times(count: int, scale: float) -> int:
    return max(1, round(count * scale))
