"""When an engine counts as saturated, as its own metrics tell."""

from __future__ import annotations

import pytest

from fairgate.engines.base import EngineStatus
from fairgate.engines.pressure import pressure


def told(
    waiting: int | None, kv_usage: float | None = None, kv_tokens: int | None = None
) -> EngineStatus:
    return EngineStatus(
        up=True, num_requests_waiting=waiting, kv_cache_usage=kv_usage, kv_cache_tokens=kv_tokens
    )


@pytest.mark.parametrize(("max_num_seqs", "threshold"), [(1, 5), (64, 5), (128, 10), (256, 20)])
def test_a_queue_means_saturation_by_what_the_engine_runs_at_once(
    max_num_seqs: int, threshold: int
) -> None:
    assert pressure(told(threshold), max_num_seqs) == 1
    assert pressure(told(threshold - 1), max_num_seqs) < 1
    assert pressure(told(0), max_num_seqs) == 0


def test_the_kv_cache_counts_only_where_nobody_reserves_its_tokens() -> None:
    assert pressure(told(0, kv_usage=0.8), 64) == 1
    assert pressure(told(0, kv_usage=0.8, kv_tokens=4096), 64) == 0
    assert pressure(told(10, kv_usage=0.8), 64) == 2, "the worse of the two"


def test_an_engine_that_tells_nothing_is_not_known() -> None:
    assert pressure(told(None), 64) < 0
