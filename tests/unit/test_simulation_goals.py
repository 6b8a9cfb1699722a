"""The promises, held against runs that are made up."""

from __future__ import annotations

from typing import Any

import msgspec
from support.outcomes import outcome, refused, run_of

from loadgen.simulation.figures import Run
from loadgen.simulation.goals import goal_rows, goals


def run(scenario: str, policy: str, base: Run | None = None, **figures: Any) -> Run:
    made = base or run_of([outcome("a", 0), outcome("b", 0)])
    return msgspec.structs.replace(made, scenario=scenario, policy=policy, **figures)


def verdicts(*runs: Run) -> dict[str, bool]:
    return {goal.what: goal.holds for goal in goals(runs)}


def test_the_abuser_is_judged_by_the_median_and_fcfs_must_suffer() -> None:
    ours = [
        run("abuser", "fairserve", seed=k, victim_slowdown=s) for k, s in enumerate((1, 1.2, 9))
    ]
    found = verdicts(*ours, run("abuser", "fcfs", victim_slowdown=11.0))
    assert found["victims' slowdown"]
    assert found["victims' slowdown: fcfs"]
    assert not verdicts(run("abuser", "fairserve", victim_slowdown=1.31))["victims' slowdown"]


def test_one_violation_in_one_seed_is_one_too_many() -> None:
    runs = [run("shift", "fairserve", seed=k, bound_violations=n) for k, n in enumerate((0, 0, 1))]
    assert not verdicts(*runs)["violations of VTC's bound: fairserve"]


def test_idle_capacity_and_lost_throughput_are_told() -> None:
    ours = run("shift", "fairserve", idle_while_waiting_s=0.1, throughput_tokens_per_s=98.0)
    found = verdicts(ours, run("shift", "fcfs", throughput_tokens_per_s=100.0))
    assert not found["seconds idle while the head of a line fits"]
    assert not found["tokens/s to the end, of those under fcfs"]


def test_what_overload_asks_depends_on_the_load() -> None:
    some_refused = run_of([outcome("a", k) for k in range(7)] + [refused("a", 9)] * 3)
    rpm = run("agents", "rpm", some_refused, load=0.8, wasted_tokens=5)
    found = verdicts(run("agents", "fairserve", load=0.8), rpm)
    assert found["share refused: rpm"]
    assert found["calls refused, of those under rpm"]
    ours = run("agents", "fairserve", load=1.5, interactions_completed=9, goodput_per_s=2.0)
    fcfs = run("agents", "fcfs", load=1.5, interactions_completed=10, goodput_per_s=1.0)
    found = verdicts(ours, fcfs)
    assert not found["interactions completed, of those under fcfs"]
    assert found["goodput, of those under fcfs"]


def test_ratios_are_of_the_same_calls() -> None:
    ours = [
        run("shift", "fairserve", seed=k, capacity_use=use) for k, use in enumerate((0.5, 0.9, 0.7))
    ]
    theirs = [
        run("shift", "fcfs", seed=k, capacity_use=use) for k, use in enumerate((0.5, 0.9, 0.8))
    ]
    found = {goal.what: goal.figure for goal in goals([*ours, *theirs])}
    assert found["work/s while calls come, of those under fcfs"] == 1.0


def test_an_overload_in_which_nobody_loses_a_call_does_not_last() -> None:
    what = "an overload that lasts: share lost under fcfs"
    some_refused = run_of([outcome("a", 0), refused("a", 9)])
    ours = run("agents", "fairserve", load=1.5)
    assert not verdicts(ours, run("agents", "fcfs", load=1.5))[what]
    assert verdicts(ours, run("agents", "fcfs", some_refused, load=1.5))[what]


def test_a_row_tells_figure_limit_and_verdict() -> None:
    found = goals([run("agents", "fairserve", load=0.8, wasted_tokens=630_100)])
    assert goal_rows(found)[1] == ["agents", "wasted tokens", "630,100", "0", "NO"]


def test_no_promise_is_kept_by_a_figure_that_is_missing() -> None:
    found = verdicts(
        run("abuser", "fairserve", victim_slowdown=None, idle_while_waiting_s=None),
        run("abuser", "fcfs", victim_slowdown=None, capacity_use_waiting=None),
    )
    assert set(found) == {
        "violations of VTC's bound: fairserve", "tokens/s to the end, of those under fcfs",
        "tokens/s while calls come, of those under fcfs",
        "work/s while calls come, of those under fcfs",
    }  # fmt: skip
    found = verdicts(
        run("weights", "fairserve", seed=1, share_error=None),
        run("weights", "fairserve", seed=2, share_error=0.04),
    )
    assert not found["distance from shares 1:2:3:4"]


def test_nothing_is_said_of_what_was_not_run() -> None:
    assert goal_rows(goals([run("weights", "fcfs")])) == [
        ["scenario", "promise", "figure", "limit", ""]
    ]
