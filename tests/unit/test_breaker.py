"""The circuit breaker of one engine, by a clock of our own."""

from __future__ import annotations

import pytest

from fairgate.config.server import Breaker as Settings
from fairgate.engines.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(Settings(failures=3, open_s=4.0, longest_s=10.0), clock)


def fail(breaker: Breaker, clock: Clock, times: int = 1) -> list[float | None]:
    return [breaker.failed(clock.now) for _ in range(times)]


def test_failures_in_a_row_open_it_and_others_do_not(breaker: Breaker, clock: Clock) -> None:
    for _ in range(10):
        assert fail(breaker, clock, 2) == [None, None]
        assert not breaker.went_well()
    assert breaker.circuit == "closed"
    *early, wait_s = fail(breaker, clock, 3)
    assert early == [None, None]
    assert wait_s is not None
    assert 3.0 <= wait_s <= 4.0
    assert breaker.circuit == "open"
    assert breaker.failures == 23


def test_it_is_tried_again_after_a_while_and_one_success_closes_it(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker, clock, 3)
    clock.now += 4.0
    assert breaker.circuit == "half-open"
    assert breaker.went_well()
    assert breaker.circuit == "closed"
    assert fail(breaker, clock, 2) == [None, None]


def test_each_try_that_fails_waits_longer_up_to_a_bound(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, clock, 3)
    for longest_s in (8.0, 10.0, 10.0):
        clock.now += 10.0
        (wait_s,) = fail(breaker, clock)
        assert wait_s is not None
        assert 0.75 * longest_s <= wait_s <= longest_s


def test_what_was_granted_before_it_opened_says_nothing_new(breaker: Breaker, clock: Clock) -> None:
    granted_at = clock.now
    clock.now += 1.0
    fail(breaker, clock, 3)
    assert fail(breaker, clock, 5) == [None] * 5
    clock.now += 4.0
    assert breaker.failed(granted_at) is None
    assert breaker.circuit == "half-open"
