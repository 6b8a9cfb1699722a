"""MESS+ keeps each tenant's level at a part of the cost, learns, and notices when things change."""

from __future__ import annotations

import random

import pytest
from support.live_routing import lanes, request, view, words

from fairgate.config import Lane
from fairgate.config.routing import Drift
from fairgate.config.routing import MessPlus as Settings
from fairgate.routing.costs import LaneCosts
from fairgate.routing.debts import FIRST_DEBT, LEAST_LABELS, Debt, Debts
from fairgate.routing.drift import DriftWatch
from fairgate.routing.mess_plus import MessPlus
from fairgate.routing.satisfaction import Satisfaction
from tests.bench.mess_plus.run import run
from tests.bench.mess_plus.stream import made_up

STREAM = made_up(4000, seed=1)
LEVEL = 0.65


def test_the_made_up_stream_needs_more_than_the_cheapest_lane() -> None:
    alone = STREAM.good.mean(0)
    assert alone[0] < LEVEL - 0.1
    assert alone[2] > LEVEL + 0.1


@pytest.mark.parametrize("feedback", [1.0, 0.2])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_level_is_kept_at_half_the_cost(feedback: float, seed: int) -> None:
    result = run(STREAM.shuffled(seed), {"acme": LEVEL}, feedback=feedback, seed=seed)["acme"]
    assert result.worst(after=1500) >= -0.02
    assert result.last() >= 0
    assert result.cost <= 0.5


def test_tenants_keep_levels_of_their_own_side_by_side() -> None:
    levels = {"modest": 0.5, "usual": 0.6, "strict": 0.72}
    results = run(STREAM.shuffled(3), levels, seed=3)
    for tenant, level in levels.items():
        assert results[tenant].last() >= 0, tenant
        assert results[tenant].agreed == level
    assert results["modest"].cost < results["usual"].cost < results["strict"].cost


def test_it_recovers_when_a_lane_gets_worse() -> None:
    result = run(STREAM.breaking(0, seed=5), {"acme": LEVEL}, seed=5)["acme"]
    assert result.last(1000) >= -0.02
    before, after = result.costs[1000:2000], result.costs[3000:]
    assert sum(after) > sum(before)


def test_what_is_missed_stays_bounded_though_nobody_can_reach_the_level() -> None:
    result = run(STREAM.shuffled(6), {"acme": 0.99}, seed=6)["acme"]
    assert result.cost > 0.9
    assert result.last() >= STREAM.good[:, 2].mean() - 0.99 - 0.02


@pytest.mark.parametrize("seed", [0, 1])
def test_a_tenant_whom_nobody_judges_does_not_pay_for_the_dearest_lane_for_ever(seed: int) -> None:
    levels = {"judged": LEVEL, "unheard": LEVEL}
    results = run(STREAM.shuffled(seed), levels, unheard={"unheard"}, seed=seed)
    silent = results["unheard"]
    assert silent.cost <= 0.75
    assert sum(silent.costs[-500:]) / 500 <= 0.6
    assert silent.last(1000) >= -0.05, "what others' feedback taught holds for it"
    assert results["judged"].last() >= 0


def test_where_nobody_judges_anybody_the_dearest_lane_serves() -> None:
    result = run(STREAM.shuffled(2), {"acme": LEVEL}, feedback=0.0, seed=2)["acme"]
    assert result.cost == 1


def test_only_of_tenants_whom_nobody_judges_the_debt_moves_as_expected() -> None:
    for judged, requests, moves in (
        (0, 99, False),
        (0, 100, True),
        (9, 400, False),
        (2, 400, True),
    ):
        debts = Debts()
        debts.take_in({"acme": Debt(20.0, requests, judged)})
        debts.expect("acme", 0.9, 0.6, labels=LEAST_LABELS - 1)
        assert debts.of("acme").debt == 20
        debts.expect("acme", 0.9, 0.6, labels=LEAST_LABELS)
        assert (debts.of("acme").debt != 20) is moves
    debts.expect("acme", 1.0, 0.6, labels=10**9)
    assert debts.of("acme").debt == pytest.approx(20 - 0.4 - 0.29, abs=0.02)
    for _ in range(100):
        debts.expect("acme", 1.0, 0.6, labels=10**9)
    assert debts.of("acme").debt == 0


def test_a_higher_price_of_costs_is_cheaper() -> None:
    cheap, dear = (
        run(STREAM.shuffled(7), {"acme": LEVEL}, settings=Settings(thrift=v), seed=7)["acme"].cost
        for v in (10.0, 0.3)
    )
    assert cheap < dear


def router(debts: Debts, satisfaction: Satisfaction, **settings: float) -> MessPlus:
    specs = {"small": Lane(engines=(), price=1), "large": Lane(engines=(), price=8)}
    return MessPlus(
        Settings(**settings),
        features=lambda asked: words(asked.text),
        satisfaction=satisfaction,
        debts=debts,
        costs=LaneCosts(specs, "price"),
        rng=random.Random(0),
    )


def paid(*tenants: str) -> Debts:
    debts = Debts()
    for tenant in tenants:
        for _ in range(60):
            debts.settle(tenant, 1.0, 0.5)
    return debts


def test_who_is_owed_nothing_gets_the_cheapest_lane() -> None:
    debts, satisfaction = paid("acme"), Satisfaction(("small", "large"))
    sut = router(debts, satisfaction, exploration=0.0)
    assert debts.of("acme").debt == 0
    decision = sut.route(request(tenant="acme", satisfaction=0.5), lanes())
    assert [a.lane for a in decision.actions] == ["small", "large"]
    assert decision.reason == "satisfaction"
    assert set(decision.predicted) == {"small", "large"}
    for _ in range(200):
        debts.settle("acme", 0.0, 0.5)
    assert sut.route(request(tenant="acme"), lanes()).actions[0].lane == "large"
    assert sut.route(request(tenant="globex"), lanes()).router == "mess-plus"


def test_exploration_takes_the_lane_that_was_judged_least() -> None:
    satisfaction = Satisfaction(("small", "large"))
    satisfaction.learn("large", words("x"), 1.0)
    sut = router(paid("acme", "new"), satisfaction, exploration=1.0)
    decision = sut.route(request(tenant="acme"), lanes())
    assert (decision.actions[0].lane, decision.reason) == ("small", "explore")
    satisfaction.learn("small", words("x"), 1.0)
    satisfaction.learn("small", words("x"), 1.0)
    assert sut.route(request(tenant="new"), lanes()).actions[0].lane == "large"
    down = [view("large", 8.0), view("small", up=0)]
    assert sut.route(request(tenant="acme"), down).actions[0].lane == "large"


def test_who_is_owed_much_gets_the_dearest_lane_that_is_up_and_no_explorations() -> None:
    satisfaction = Satisfaction(("small", "large"))
    for _ in range(100):
        satisfaction.learn("large", words("x"), 0.0)
    sut = router(Debts(), satisfaction, exploration=1.0)
    decision = sut.route(request(tenant="acme"), lanes())
    assert [a.lane for a in decision.actions] == ["large"]
    assert decision.reason == "satisfaction"
    down = [view("large", 8.0, up=0), view("small", up=0)]
    assert sut.route(request(tenant="acme"), down).actions[0].lane == "large"


@pytest.mark.parametrize("seed", range(5))
def test_no_more_is_missed_than_the_debt_has_grown(seed: int) -> None:
    rng, debts, missed = random.Random(seed), Debts(), 0.0
    for _ in range(2000):
        score = float(rng.random() < rng.choice([0.3, 0.6, 0.9]))
        debts.count("acme")
        debts.settle("acme", score, 0.6)
        missed += 0.6 - score
        assert missed <= debts.of("acme").debt - FIRST_DEBT + 1e-6


# Costs and drift


def test_costs_are_relative_whatever_they_measure() -> None:
    specs = {
        "small": Lane(engines=(), price=1, energy=80),
        "large": Lane(engines=(), price=20, energy=2000),
    }
    assert LaneCosts(specs, "price").relative() == {"small": 0.05, "large": 1}
    assert LaneCosts(specs, "energy").relative() == {"small": 0.04, "large": 1}
    seconds = LaneCosts(specs, "latency")
    seconds.note("small", 2.0)
    assert seconds.relative() == {"small": 0.05, "large": 1}
    seconds.note("large", 1.0)
    assert seconds.relative() == {"small": 1, "large": 0.5}


def test_drift_alarms_when_predictions_fail_and_not_by_chance() -> None:
    rng = random.Random(1)
    watch = DriftWatch("main", Drift(window=200, tolerance=0.1))
    for _ in range(400):
        watch.note("small", 0.7, float(rng.random() < 0.7))
    assert watch.gaps()["small"][1] is False
    for _ in range(200):
        watch.note("small", 0.7, float(rng.random() < 0.4))
    gap, alarm = watch.gaps()["small"]
    assert alarm
    assert gap.mean == pytest.approx(-0.3, abs=0.1)
    for _ in range(200):
        watch.note("small", 0.4, float(rng.random() < 0.4))
    assert watch.gaps()["small"][1] is False
    assert watch.gap("large") is None
