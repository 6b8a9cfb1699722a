"""Scenarios draw what they say, the same for the same seed."""

from __future__ import annotations

import pytest

from fairgate.config import SimulatedEngine
from loadgen.errors import SpecError
from loadgen.simulation.policies import ABLATIONS, PRESETS, named_policies
from loadgen.simulation.scenarios import SCENARIOS
from loadgen.simulation.sources import Source
from loadgen.simulation.workload import POOL, refused_share, rpm_that_refuses

NAMES = [
    "two-users", "azure-apps", "agents", "crowd", "on-off", "weights", "abuser", "heavy-app",
    "shift", "mixed-lanes", "replicas",
]  # fmt: skip


def test_every_scenario_is_there_and_says_what_it_isolates() -> None:
    assert list(SCENARIOS) == NAMES
    assert all("isolates" in scenario.about.lower() for scenario in SCENARIOS.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_draws_the_same(name: str) -> None:
    first, again, other = (SCENARIOS[name].build(400, seed, Source()) for seed in (1, 1, 2))
    assert first == again
    assert first.plan != other.plan
    calls = first.base_calls or first.calls
    assert calls == pytest.approx(400, rel=0.4)
    indexes = [call.index for chain in first.plan for call in chain.calls]
    assert sorted(indexes) == list(range(first.calls))


@pytest.mark.parametrize("name", NAMES)
def test_every_request_fits_its_engines(name: str) -> None:
    workload = SCENARIOS[name].build(400, 0, Source())
    lanes = workload.config.pools[POOL].lanes.values()
    engines = [e for lane in lanes for e in lane.engines if isinstance(e, SimulatedEngine)]
    longest = max(c.prompt_tokens + c.output_tokens for ch in workload.plan for c in ch.calls)
    assert longest <= min(engine.kv_cache_tokens for engine in engines)


def test_stretching_gives_the_rate_that_was_asked_for() -> None:
    drawn = SCENARIOS["weights"].build(1000, 0, Source())
    paced = drawn.at_rate(5.0)
    assert paced.calls / paced.span_s == pytest.approx(5.0)


def test_the_abuser_comes_on_top_of_the_load_and_can_be_left_out() -> None:
    paced = SCENARIOS["abuser"].build(800, 0, Source()).at_rate(4.0)
    assert paced.base_calls / paced.span_s == pytest.approx(4.0)
    assert paced.calls > 5 * paced.base_calls
    assert all(c.calls[0].tenant != "abuser" for c in paced.without_abuser().plan)


def test_the_limit_refuses_about_what_it_is_meant_to() -> None:
    plan = SCENARIOS["azure-apps"].build(1500, 0, Source()).at_rate(2.0).plan
    rpm = rpm_that_refuses(plan, 0.3)
    assert refused_share(plan, rpm) <= 0.3
    assert refused_share(plan, rpm - 1) > 0.3


def test_policies_by_name() -> None:
    assert list(named_policies("all")) == list(PRESETS)
    assert list(named_policies("vtc,fcfs")) == ["vtc", "fcfs"]
    assert set(named_policies("ablations")) == {"fairserve", *ABLATIONS}
    with pytest.raises(SpecError, match="--policy lifo: not a policy"):
        named_policies("lifo")
