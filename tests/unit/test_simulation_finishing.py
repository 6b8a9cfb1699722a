"""What finished interactions cost, beside all that were offered."""

from __future__ import annotations

import pytest
from support.outcomes import outcome, refused

from fairgate.config import HttpEngine, Lane
from loadgen.records import Call, Chain, Outcome
from loadgen.simulation.endings import endings
from loadgen.simulation.finishing import Finishing, finishing
from loadgen.simulation.work import Cost
from loadgen.simulation.workload import a100

LANES = {"main": Lane(engines=(a100(),))}
CALL_S = Cost(a100()).call_s(10, 11)


def offered(tenant: str, name: str, calls: int) -> Chain:
    made = (
        Call(
            index=0, tenant=tenant, user="u", app="chat", prompt_tokens=10, output_tokens=11,
            interaction=name, number=number, calls=calls,
        )
        for number in range(calls)
    )  # fmt: skip
    return Chain(0.0, tuple(made))


def served(tenant: str, name: str, calls: int, *, until: int) -> list[Outcome]:
    """An interaction that is refused its call number ``until``, if it has one."""
    whole = {"interaction": name, "calls": calls, "engine": "main-0"}
    done = [outcome(tenant, 5 * k, number=k, **whole) for k in range(min(until, calls))]
    lost = [refused(tenant, 5 * until, number=until, **whole)] if until < calls else []
    return done + lost


def of(outcomes: list[Outcome], lanes: dict[str, Lane]) -> Finishing:
    plan = [offered("a", "short", 1), offered("a", "long", 5), offered("b", "other", 3)]
    return finishing(outcomes, endings(outcomes), plan, lanes)


def test_who_breaks_the_long_ones_finishes_cheap_ones() -> None:
    outcomes = [*served("a", "short", 1, until=1), *served("a", "long", 5, until=4)]
    found = of(outcomes, LANES)
    assert found.each_s == pytest.approx(CALL_S)
    assert found.offered_each_s == pytest.approx(3 * CALL_S)
    assert found.useful_s == pytest.approx(CALL_S)
    assert found.possible == 1
    assert found.shares == {"a": 0.5, "b": 0.0}


def test_calls_outside_of_interactions_are_useful_too() -> None:
    outcomes = [outcome("a", 0, engine="main-0"), *served("b", "other", 3, until=3)]
    found = of(outcomes, LANES)
    assert found.useful_s == pytest.approx(4 * CALL_S)
    assert found.possible == 1, "what stood alone is no interaction's"


def test_the_same_work_finishes_most_interactions_when_the_cheapest_come_first() -> None:
    assert of(served("a", "long", 5, until=5), LANES).possible == 2  # of 1, 3 and 5 calls


def test_the_work_of_real_engines_is_not_known() -> None:
    lanes = {"main": Lane(engines=(HttpEngine(url="http://127.0.0.1:1"),))}
    found = of(served("b", "other", 3, until=3), lanes)
    assert (found.useful_s, found.each_s, found.offered_each_s) == (None, None, None)
    assert found.possible is None
    assert found.shares["b"] == 1.0
