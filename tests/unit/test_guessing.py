"""Unknown keys, counted by the client's address."""

from __future__ import annotations

from typing import Any

import pytest

from fairgate.config import Server
from fairgate.errors import Throttled
from fairgate.guessing import MOST_ADDRESSES, WINDOW_S, FailedKeys


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def scope(peer: str | None = "192.0.2.1", *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    return {"type": "http", "client": (peer, 5) if peer else None, "headers": headers}


def failed_keys(most: int = 3, *proxies: str, clock: Clock | None = None) -> FailedKeys:
    server = Server(failed_keys_per_minute=most, trusted_proxies=proxies)
    return FailedKeys(server, clock=clock or Clock())


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


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", ("198.51.100.7",), "192.0.2.1"),  # anybody can say so
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("198.51.100.7",), "198.51.100.7"),
        ("10.0.0.1", ("203.0.113.9, 198.51.100.7",), "198.51.100.7"),  # the left one is hearsay
        ("10.0.0.1", ("203.0.113.9, 198.51.100.7, 10.9.9.9",), "198.51.100.7"),
        ("10.0.0.1", ("203.0.113.9", "198.51.100.7"), "198.51.100.7"),
        ("10.0.0.1", ("198.51.100.7, 10.2.0.1, nonsense",), "10.0.0.1"),
        ("10.0.0.1", ("\xff" * 9000,), "10.0.0.1"),
        ("10.0.0.1", ("10.0.0.2," * 5000,), "10.0.0.2"),
        ("::ffff:10.0.0.1", ("198.51.100.7",), "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", (), "2001:db8:1:2::/64"),
        ("fe80::1%eth0", (), "fe80::/64"),
        (None, ("198.51.100.7",), "unknown"),
        ("/run/fairgate.sock", ("198.51.100.7",), "unknown"),
    ],
)
def test_the_address_is_what_the_last_trusted_proxy_saw(
    peer: str | None, forwarded: tuple[str, ...], address: str
) -> None:
    assert failed_keys(3, "10.0.0.0/8").address(scope(peer, *forwarded)) == address
