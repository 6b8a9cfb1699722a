"""Where a client is, behind proxies and without."""

from __future__ import annotations

from typing import Any

import pytest

from fairgate.addresses import Addresses
from fairgate.config.reading import convert
from fairgate.config.server import Server
from fairgate.errors import ConfigError


def scope(peer: str | None, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    return {"type": "http", "client": (peer, 5) if peer else None, "headers": headers}


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
    assert Addresses(Server(trusted_proxies=("10.0.0.0/8",))).of(scope(peer, *forwarded)) == address


@pytest.mark.parametrize(
    ("peer", "forwarded", "may"),
    [
        ("127.0.0.1", (), True),
        ("10.1.2.3", (), True),
        ("203.0.113.9", (), False),
        ("203.0.113.9", ("127.0.0.1",), False),  # it says so itself
        ("10.0.0.1", ("203.0.113.9",), False),  # a trusted proxy says so
        ("::1", (), True),
        (None, (), True),
    ],
)
def test_metrics_are_for_private_networks(
    peer: str | None, forwarded: tuple[str, ...], may: bool
) -> None:
    addresses = Addresses(Server(trusted_proxies=("10.0.0.1",)))
    assert addresses.may_scrape(scope(peer, *forwarded)) is may


@pytest.mark.parametrize("field", ["trusted_proxies", "metrics_from"])
@pytest.mark.parametrize("network", ["proxy.internal", "10.0.0.1/8", "", "10.0.0.0/33"])
def test_a_network_that_is_none_is_refused(field: str, network: str) -> None:
    lane = {"engines": [{"type": "http", "url": "http://engine"}]}
    server = {field: ["10.0.0.0/8", network]}
    with pytest.raises(ConfigError, match=rf"server\.{field}\[1\]: expected an address"):
        convert({"pools": {"main": {"lanes": {"a": lane}}}, "server": server}, source="test")
