"""The figures of hand-made recordings."""

from __future__ import annotations

import pytest
from support.outcomes import SPAN_S, outcome, refused, run_of


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
    assert run.user_gap == pytest.approx(0.0)
    assert run_of(even).share_error is None


def test_the_gap_of_users_is_told_in_typical_requests() -> None:
    often = [outcome("a", s, user="often") for s in range(20, 50)]
    seldom = [outcome("a", s, user="seldom") for s in range(20, 30)]
    run = run_of([*often, *seldom], contended=True)
    assert run.user_spread == pytest.approx(0.5)
    assert run.user_gap == pytest.approx(10)  # 30 and 10 requests, 20 on average


def test_a_victim_that_gave_up_counts_with_the_time_it_lost() -> None:
    calm = [outcome("a", 60 + k / 10) for k in range(100)]
    hurt = [outcome("a", 60 + k / 10) for k in range(50)]
    lost = [refused("a", 65 + k / 10, end_s=185 + k / 10) for k in range(50)]
    storm = [outcome("b", 60 + k) for k in range(20)]
    run = run_of([*hurt, *lost, *storm], without=calm, abuser="b", phase=(0.5, 1.0))
    assert run.victim_ttft_p99_s == (pytest.approx(120), pytest.approx(1))
    assert run.release_interval_s == pytest.approx(50 / 70)
    assert run.victim_slowdown == pytest.approx(120 - 50 / 70)
