"""VTC's bound on hand-made runs."""

from __future__ import annotations

import pytest

from fairgate.config.policy import resolve_policy
from loadgen.records import Outcome
from loadgen.simulation.bound import check_tenants, check_users

VTC, FAIRSERVE = resolve_policy("vtc"), resolve_policy("fairserve")


def outcome(tenant: str, came_s: float, granted_s: float, *, user: str = "u", prompt: int = 10):
    return Outcome(
        tenant=tenant, user=user, app="a", interaction=None, number=0, calls=1,
        result="completed", wanted_prompt_tokens=prompt, wanted_output_tokens=0,
        prompt_tokens=prompt, completion_tokens=0, intended_s=came_s, sent_s=came_s,
        granted_s=granted_s, first_token_s=granted_s + 0.5, end_s=granted_s + 0.5,
    )  # fmt: skip


def alternating(users: bool = False) -> list[Outcome]:
    """Both wait from 0 on; one request at a time, in turns."""
    return [
        outcome("t" if users else name, 0, 2.0 * k + turn, user=name)
        for k in range(5)
        for turn, name in enumerate(("f", "g"))
    ]


def starving() -> list[Outcome]:
    """``g`` waits while ``f`` is served ten times."""
    return [*(outcome("f", 0, k) for k in range(10)), outcome("g", 0, 10)]


def test_taking_turns_keeps_the_bound() -> None:
    outcomes = alternating()
    check = check_tenants(outcomes, [1.0] * 10, {"f": 1.0, "g": 1.0}, VTC, {})
    assert check.pairs == 1
    assert check.violations == 0
    assert check.bound == 2 * max(10, 2 * 10)  # one request of ten tokens at a time
    assert check.worst == pytest.approx(10)


def test_starving_breaks_it() -> None:
    outcomes = starving()
    check = check_tenants(outcomes, [1.0] * 11, {"f": 1.0, "g": 1.0}, VTC, {})
    assert check.worst == pytest.approx(90)
    assert check.violations == 1


def test_a_weight_that_explains_it_does_not() -> None:
    outcomes = starving()
    check = check_tenants(outcomes, [1.0] * 11, {"f": 10.0, "g": 1.0}, VTC, {})
    assert check.violations == 0


def test_users_are_measured_in_typical_requests_of_their_app() -> None:
    big = [
        outcome("t", 0, 2.0 * k + turn, user=name, prompt=size)
        for k in range(5)
        for turn, (name, size) in enumerate((("f", 1000), ("g", 10)))
    ]
    expected = [1000.0, 10.0] * 5
    assert check_users(big, expected, FAIRSERVE, {}).worst == pytest.approx(1)
    assert check_users(big, expected, VTC, {}).worst > 3900


def test_users_of_different_tenants_are_no_pair_unless_the_policy_knows_only_users() -> None:
    outcomes = alternating()
    assert check_users(outcomes, [1.0] * 10, VTC, {}).pairs == 0
    assert check_users(alternating(users=True), [1.0] * 10, VTC, {}).pairs == 1
