"""From what an engine saw to grant latency and idle capacity."""

from __future__ import annotations

import pytest

from tests.bench.contention.engine import Times
from tests.bench.contention.figures import grant_latencies_s, idle_share, most_at_once

# Two sequences: taken at 0, freed at 10 and 20, taken again a little later.
TIMES = Times(arrivals=[0.0, 0.0, 10.5, 20.1], ends=[10.0, 20.0, 31.0])


def test_each_end_is_followed_by_the_arrival_that_takes_its_place():
    assert grant_latencies_s(TIMES, 2, since=0, until=30) == pytest.approx([0.5, 0.1])
    assert grant_latencies_s(TIMES, 2, since=15, until=30) == pytest.approx([0.1])
    # The last end has no arrival after it.
    assert len(grant_latencies_s(TIMES, 2, since=0, until=40)) == 2


def test_idle_is_what_was_free_of_what_there_was():
    assert idle_share(TIMES, 2, since=0, until=30) == pytest.approx(0.6 / 60)
    assert idle_share(TIMES, 2, since=10, until=11) == pytest.approx(0.5 / 2)
    assert idle_share(TIMES, 2, since=1, until=9) == 0


def test_more_at_once_than_there_are_sequences_would_show():
    assert most_at_once(TIMES) == 2
    assert most_at_once(Times(arrivals=[0.0, 1.0, 2.0], ends=[3.0])) == 3
