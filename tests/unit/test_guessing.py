"""Unknown keys, counted by the client's address."""

from __future__ import annotations

from typing import Any

import pytest

from fairgate.addresses import Addresses
from fairgate.config.server import Server
from fairgate.errors import Throttled
from fairgate.guessing import MOST_ADDRESSES, WINDOW_S, FailedKeys


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def scope(peer: str = "192.0.2.1") -> dict[str, Any]:
    return {"type": "http", "client": (peer, 5), "headers": []}


def failed_keys(most: int, *, clock: Clock | None = None) -> FailedKeys:
    return FailedKeys(most, Addresses(Server()), clock=clock or Clock())


def refused(failed: FailedKeys, sent: dict[str, Any]) -> bool:
    try:
        failed.count(sent)
    except Throttled:
        return True
    return False


def test_the_first_ones_of_a_minute_pass_and_then_none() -> None:
    clock = Clock()
    failed = failed_keys(3, clock=clock)
    assert [refused(failed, scope()) for _ in range(5)] == [False] * 3 + [True] * 2
    assert not refused(failed, scope("192.0.2.2"))
    clock.now += WINDOW_S - 10
    with pytest.raises(Throttled) as caught:
        failed.count(scope())
    assert caught.value.retry_after == pytest.approx(10)
    clock.now += 10
    assert not refused(failed, scope())


def test_what_is_kept_is_bounded() -> None:
    failed = failed_keys(1)
    for i in range(3 * MOST_ADDRESSES):
        failed.count(scope(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}"))
    assert len(failed._failed) == MOST_ADDRESSES
