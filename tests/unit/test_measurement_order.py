"""When real and simulated runs agree about the order of policies."""

from __future__ import annotations

import pytest

from loadgen.measurement.order import FLOORS, Agreement, ordered
from loadgen.simulation.statistics import Spread
from loadgen.simulation.table import COLUMNS


def at(value: float) -> Spread:
    return Spread(value, value, value)


@pytest.mark.parametrize(
    ("a", "b", "sign"),
    [
        (at(10), at(20), -1),
        (at(20), at(10), 1),
        (at(10), at(10), 0),
        (at(100), at(119), 0),  # within a fifth of the larger
        (at(100), at(130), -1),
        (at(0), at(2), 0),  # within the floor
        (at(0), at(2.1), -1),
        (Spread(10, 5, 15), Spread(30, 25, 35), -1),
        (Spread(10, 5, 24), Spread(30, 25, 35), 0),  # the intervals nearly touch
        (Spread(10, 0, 40), Spread(30, 25, 35), 0),
    ],
)
def test_two_policies_are_ordered_if_they_differ_by_more_than_the_noise(
    a: Spread, b: Spread, sign: int
) -> None:
    assert ordered(a, b, floor=2.0, share=0.2) == sign


def test_every_floor_belongs_to_a_column_that_has_a_direction() -> None:
    assert FLOORS.keys() <= {column.title for column in COLUMNS if column.better}


def test_an_agreement_says_what_it_found() -> None:
    def text(agreeing: int, undecided: int, *disagreeing: tuple[str, str]) -> str:
        return Agreement(
            scenario="s", figure="f", agreeing=agreeing, undecided=undecided,
            disagreeing=list(disagreeing),
        ).text  # fmt: skip

    assert text(0, 3) == "tie"
    assert text(2, 1) == "agrees (2 of 3 pairs, others tie)"
    assert text(2, 0, ("fcfs", "vtc")) == "DISAGREES: fcfs/vtc"
