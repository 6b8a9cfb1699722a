"""Who floods, who is protected, who is held back: by what each wants and what it is due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairgate.inspection.judge import summary
from fairgate.inspection.shares import Demand, Role, entitlements, standings


def demand(running: float, waiting: float = 0.0, weight: float = 1.0, refused: float = 0) -> Demand:
    return Demand(weight, running, waiting, refused)


def roles(**demands: Demand) -> dict[str, Role]:
    return {name: s.role for name, s in standings(demands).items()}


def test_a_flood_is_told_from_those_who_are_protected() -> None:
    found = roles(hog=demand(13, 60), mild=demand(1), heavy=demand(2, weight=2), gone=demand(0))
    assert found == {
        "hog": Role.FLOODS,
        "mild": Role.PROTECTED,
        "heavy": Role.PROTECTED,
        "gone": Role.IDLE,
    }


def test_who_waits_with_less_than_its_share_is_held_back() -> None:
    found = roles(hog=demand(15, 80), mild=demand(1, 6))
    assert found == {"hog": Role.FLOODS, "mild": Role.HELD_BACK}


def test_a_refused_flood_is_a_flood() -> None:
    assert roles(hog=demand(8, 0, refused=30), mild=demand(2))["hog"] is Role.FLOODS


def test_somewhat_more_than_a_share_is_no_flood() -> None:
    assert roles(a=demand(8, 4), b=demand(8))["a"] is Role.OVER


def test_nobody_is_anything_to_others_while_nobody_waits() -> None:
    assert set(roles(a=demand(14), b=demand(1)).values()) == {Role.SERVED}


def test_shares_by_weight_are_of_those_who_want_something() -> None:
    found = standings({"a": demand(4, weight=3), "b": demand(4), "idle": demand(0, weight=9)})
    assert found["a"].fair == pytest.approx(0.75)
    assert found["idle"].fair == 0


def test_max_min_gives_what_small_ones_leave_to_the_others_by_weight() -> None:
    due = entitlements(
        {"small": demand(2), "one": demand(10, 90), "two": demand(10, 90, weight=2)}, 20
    )
    assert due == pytest.approx({"small": 2, "one": 6, "two": 12})


demands = st.builds(
    demand,
    running=st.floats(0, 100),
    waiting=st.floats(0, 1000),
    weight=st.floats(0.1, 10),
)


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=2), demands, min_size=1))
def test_all_that_runs_is_divided_and_nobody_gets_more_than_it_wants(found) -> None:
    capacity = sum(d.running for d in found.values())
    due = entitlements(found, capacity)
    assert sum(due.values()) == pytest.approx(capacity)
    for name, part in due.items():
        assert part <= found[name].wanted * (1 + 1e-9)


def test_the_summary_says_it_in_a_sentence() -> None:
    stand = standings({"hog": demand(13, 60), "mild": demand(1), "heavy": demand(2)})
    assert summary(stand) == "hog floods; heavy and mild are protected."
    assert summary(standings({"a": demand(1)})) == "Nobody waits; a is served."
    assert summary({}) == "Nobody wants anything."
    many = {f"t{n}": demand(1, 9) for n in range(6)}
    assert "and 3 more" in summary(standings(many))
