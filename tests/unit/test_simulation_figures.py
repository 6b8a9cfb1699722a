"""The figures of hand-made recordings."""

from __future__ import annotations

from typing import Any

import pytest

from fairgate.config import Policy
from loadgen.records import Call, Chain, Outcome
from loadgen.simulation.driver import Recording
from loadgen.simulation.figures import Conditions, Run, figures
from loadgen.simulation.workload import Workload, site

SPAN_S = 100.0


def outcome(tenant: str, at_s: float, **changes: Any) -> Outcome:
    """A call of 10 + 11 tokens with its first token after 1 s and its last one after 2 s."""
    done = changes.get("result", "completed") == "completed"
    fields: dict[str, Any] = {
        "tenant": tenant, "user": "u", "app": "chat", "interaction": None, "number": 0, "calls": 1,
        "result": "completed", "wanted_prompt_tokens": 10, "wanted_output_tokens": 11,
        "prompt_tokens": 10 if done else 0, "completion_tokens": 11 if done else 0,
        "intended_s": at_s, "sent_s": at_s, "granted_s": at_s if done else None,
        "first_token_s": at_s + 1 if done else None, "end_s": at_s + (2 if done else 0),
        "queue_s": 0.0,
    }  # fmt: skip
    return Outcome(**(fields | changes))


def refused(tenant: str, at_s: float, **changes: Any) -> Outcome:
    return outcome(tenant, at_s, **({"result": "throttled", "reason": "user.rpm"} | changes))


def run_of(outcomes: list[Outcome], *, without: list[Outcome] | None = None, **changes: Any) -> Run:
    call = Call(index=0, tenant="a", user="u", app="chat", prompt_tokens=1, output_tokens=1)
    workload = Workload(
        config=site({"a": 1.0, "b": 3.0}, ["chat"]),
        plan=[Chain(0.0, (call,)), Chain(SPAN_S, (call,))],
        **changes,
    )
    conditions = Conditions(
        scenario="hand-made", policy="fairserve", seed=0, load=1.0, capacity=2.0, rpm=0
    )
    before = None if without is None else Recording(without, [1.0] * len(without))
    recording = Recording(outcomes, [1.0] * len(outcomes))
    return figures(conditions, Policy(), workload, recording, before)


def test_interactions_are_done_broken_or_refused() -> None:
    run = run_of(
        [
            outcome("a", 0, interaction="done", calls=2),
            outcome("a", 5, interaction="done", calls=2, number=1),
            outcome("a", 0, interaction="broken", calls=3),
            refused("a", 5, interaction="broken", calls=3, number=1),
            refused("b", 0, interaction="refused", calls=2),
            outcome("b", 0),
        ]
    )
    whole = run.interactions_completed, run.interactions_broken, run.interactions_refused
    assert whole == (1, 1, 1)
    assert run.wasted_tokens == 21
    assert run.throttled_by_cause == {"user.rpm": 2}
    assert (run.throttled_interactions, run.throttled_users) == (2, 2)


def test_goodput_leaves_out_late_slow_and_broken() -> None:
    good = [outcome("a", k) for k in range(4)]
    late = outcome("a", 0, first_token_s=50.0, end_s=51.0)
    slow = outcome("a", 0, end_s=60.0)
    broken = [
        outcome("a", 0, interaction="x", calls=2),
        refused("a", 9, interaction="x", calls=2, number=1),
    ]
    run = run_of([*good, late, slow, *broken])
    assert run.goodput_per_s == pytest.approx(4 / SPAN_S)


def test_an_interaction_is_within_the_slo_if_all_its_calls_are() -> None:
    good = [outcome("a", s, interaction="good", calls=2, number=k) for k, s in enumerate((0, 5))]
    slow = [outcome("a", s, interaction="slow", calls=2, number=k) for k, s in enumerate((0, 5))]
    slow[1] = outcome("a", 5, interaction="slow", calls=2, number=1, first_token_s=50.0, end_s=51.0)
    cut = [
        outcome("a", 0, interaction="cut", calls=2),
        refused("a", 9, interaction="cut", calls=2, number=1),
    ]
    run = run_of([*good, *slow, *cut])
    assert (run.interactions_completed, run.interactions_in_slo) == (2, 1)


def test_rates_are_of_the_time_in_which_calls_come() -> None:
    early = [outcome("a", s, interaction="early", calls=2, number=k) for k, s in enumerate((0, 5))]
    after = [
        outcome("a", s, interaction="after", calls=2, number=k) for k, s in enumerate((5, SPAN_S))
    ]
    run = run_of([*early, *after])
    assert run.interactions_completed == 2
    assert run.interactions_per_s == pytest.approx(1 / SPAN_S)
    assert run.goodput_per_s == pytest.approx(3 / SPAN_S)


def test_shares_are_weighed() -> None:
    even = [outcome(t, s) for s in range(20, 90) for t in ("a", "b")]
    run = run_of(even, contended=True)
    assert run.shares == pytest.approx({"a": 0.5, "b": 0.5})
    assert run.share_error == pytest.approx(1.0)  # a got twice its quarter
    assert run.user_spread == pytest.approx(0.0)
    assert run_of(even).share_error is None


def test_a_victim_that_gave_up_counts_with_the_time_it_lost() -> None:
    calm = [outcome("a", 60 + k / 10) for k in range(100)]
    hurt = [outcome("a", 60 + k / 10) for k in range(50)]
    lost = [refused("a", 65 + k / 10, end_s=185 + k / 10) for k in range(50)]
    storm = [outcome("b", 60 + k) for k in range(20)]
    run = run_of([*hurt, *lost, *storm], without=calm, abuser="b", phase=(0.5, 1.0))
    assert run.victim_ttft_p99_s == (pytest.approx(120), pytest.approx(1))
    assert run.release_interval_s == pytest.approx(50 / 70)
    assert run.victim_slowdown == pytest.approx(120 - 50 / 70)
