"""Scenarios made small enough for one machine."""

from __future__ import annotations

import pytest

from fairgate.config import HttpEngine
from loadgen.measurement.scaling import Scale, alone, draw, on_engines, sample
from loadgen.simulation.capacity import burst
from loadgen.simulation.scenarios import SCENARIOS
from loadgen.simulation.sources import Source
from loadgen.simulation.workload import POOL, Workload

SOURCE = Source()


def drawn(name: str, calls_per_s: float = 5.0, **scale: float) -> Workload:
    seconds = scale.get("seconds", 40.0)
    how = Scale(tokens=scale.get("tokens", 0.1), seconds=seconds)
    return draw(SCENARIOS[name], how, 0, SOURCE, calls_per_s=calls_per_s)


@pytest.mark.parametrize("name", ["weights", "abuser", "agents", "two-users", "on-off"])
def test_the_calls_of_the_offered_load_come_in_the_time_given(name: str) -> None:
    workload = drawn(name)
    assert workload.span_s == pytest.approx(40.0, rel=0.1)
    counted = workload.base_calls or workload.calls
    assert counted / workload.span_s == pytest.approx(5.0)


def test_lengths_are_scaled_and_told() -> None:
    whole, short = drawn("weights", tokens=1.0), drawn("weights", tokens=0.1)
    for before, after in zip(whole.plan, short.plan, strict=True):
        assert after.calls[0].prompt_tokens == max(1, round(0.1 * before.calls[0].prompt_tokens))
        assert after.calls[0].output_tokens == max(1, round(0.1 * before.calls[0].output_tokens))
    assert short.caps_output
    assert {app.expected_output_tokens for app in short.config.apps.values()} == {26}


def test_the_plan_is_the_scenarios_own() -> None:
    scenario = SCENARIOS["two-users"]
    plan = scenario.build(200, 3, SOURCE).plan
    same = draw(scenario, Scale(tokens=1.0, calls=200), 3, SOURCE, calls_per_s=2.0).plan
    assert [chain.calls for chain in same] == [chain.calls for chain in plan]


@pytest.mark.parametrize(("seconds", "patience_s"), [(40.0, 40.0), (500.0, 120.0)])
def test_nobody_waits_for_longer_than_calls_come(seconds: float, patience_s: float) -> None:
    workload = drawn("abuser", seconds=seconds)
    (lane,) = workload.config.pools[POOL].lanes.values()
    assert lane.queue.timeout_s == pytest.approx(patience_s, rel=0.1)


def test_probes_have_the_scenarios_calls_alone_and_all_at_once() -> None:
    workload = sample(SCENARIOS["agents"], Scale(tokens=0.1, calls=100), 0, SOURCE)
    sizes = {(c.prompt_tokens, c.output_tokens) for chain in workload.plan for c in chain.calls}
    together, single = burst(workload, 0, 30), alone(workload, 0)
    assert [(chain.start_s, len(chain.calls)) for chain in together.plan] == [(0.0, 1)] * 30
    assert [len(chain.calls) for chain in single.plan] == [3]
    for chain in (*together.plan, *single.plan):
        assert {(c.prompt_tokens, c.output_tokens) for c in chain.calls} <= sizes
        assert all(c.interaction is None for c in chain.calls)


def test_only_engines_are_replaced() -> None:
    workload = drawn("weights")
    (lane,) = workload.config.pools[POOL].lanes.values()
    placed = on_engines(workload, [HttpEngine(url="http://e")], "model")
    (other,) = placed.config.pools[POOL].lanes.values()
    assert (other.engines, other.model) == ((HttpEngine(url="http://e"),), "model")
    assert other.queue == lane.queue
    assert placed.config.tenants == workload.config.tenants
    assert placed.plan == workload.plan
