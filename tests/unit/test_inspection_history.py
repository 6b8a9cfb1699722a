"""The history of a pool: slices in, sums and rates out."""

from __future__ import annotations

from fairgate.admission.look import SLICE_S, SliceLook
from fairgate.inspection.history import SLICES, History

NOW = 170_000_000


def filled(*slices: SliceLook, elapsed_s: float = SLICE_S) -> History:
    history = History()
    history.take(slices, NOW, NOW * SLICE_S + elapsed_s)
    return history


def test_it_asks_for_what_is_over_only_once() -> None:
    history = History()
    first = history.wanted(NOW)
    assert first == NOW - SLICES + 1
    while not history.take(
        [SliceLook(n, [("a", 1.0)], []) for n in range(first, min(first + 10, NOW + 1))],
        NOW,
        NOW * SLICE_S,
    ):
        first = history.wanted(NOW)
        assert history.service(900) == {"a": history.wanted(NOW) - (NOW - SLICES + 1)}
    assert history.wanted(NOW) == NOW - 1
    assert history.service(900) == {"a": SLICES}
    # What is not over comes again, and replaces what was known.
    history.take([SliceLook(NOW, [("a", 5.0)], [])], NOW, NOW * SLICE_S)
    assert history.service(SLICE_S) == {"a": 5.0}
    history.take([SliceLook(NOW + SLICES, [], [])], NOW + SLICES, 0.0)
    assert history.service(900) == {}


def test_corrections_may_outweigh_a_slice_but_no_sum_is_below_nothing() -> None:
    history = filled(
        SliceLook(NOW - 1, [("a", 100.0), ("b", 1.0)], []),
        SliceLook(NOW, [("a", -30.0), ("b", -5.0)], []),
    )
    assert history.service(60) == {"a": 70.0, "b": 0.0}
    assert history.service(SLICE_S) == {"a": 0.0, "b": 0.0}
    assert list(history.rates(["a"])["a"])[-2:] == [10.0, 0.0]


def test_rates_are_per_second_of_what_has_passed_and_the_rest_is_summed() -> None:
    history = filled(SliceLook(NOW, [("a", 50.0), ("b", 20.0), ("-", 5.0)], []), elapsed_s=5.0)
    rates = history.rates(["a"])
    assert rates["a"][-1] == 10.0
    assert rates["rest"][-1] == 5.0


def test_refusals_are_by_tenant_and_limit() -> None:
    history = filled(
        SliceLook(NOW - 1, [], [("a tenant.rpm", 2)]),
        SliceLook(NOW, [], [("a tenant.rpm", 1), ("a queue", 4), ("- queue", 3)]),
    )
    assert history.refused(60) == {"a": {"tenant.rpm": 3, "queue": 4}, "-": {"queue": 3}}
