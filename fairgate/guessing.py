"""Who sends unknown API keys too often is told to stop, by its address.

A key of ours is 256 random bits: nobody guesses one. What is bounded here is what trying costs us,
and an operator learns of it. Known keys are never refused, also from an address that guesses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import structlog
from starlette.types import Scope

from fairgate.config import Server
from fairgate.errors import Throttled

MOST_ADDRESSES = 4096
"""Kept at once; beyond them the one is forgotten that began first."""

WINDOW_S = 60.0

_IPV6_SITE_BITS = 64
_LONGEST_CHAIN = 32

log = structlog.get_logger("fairgate.guessing")


class FailedKeys:
    """Counts unknown keys by client address, in this process."""

    def __init__(self, server: Server, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = server.failed_keys_per_minute
        self._proxies = tuple(ip_network(proxy) for proxy in server.trusted_proxies)
        self._clock = clock
        self._failed: dict[str, tuple[float, int]] = {}
        """When the window began, and how many there were in it."""

    def count(self, scope: Scope) -> None:
        """One more from the client of ``scope``. Raises ``Throttled`` when there were too many."""
        now, address = self._clock(), self.address(scope)
        began, failures = self._failed.get(address, (now, 0))
        if now - began >= WINDOW_S:
            began, failures = now, 0
        if failures == 0:
            self._make_room(address)
        self._failed[address] = began, failures + 1
        if failures < self._most:
            return
        if failures == self._most:
            log.warning("too many unknown keys", address=address)
        raise Throttled(
            "Too many unknown API keys came from your address.",
            limit="address",
            code="too_many_unknown_keys",
            retry_after=began + WINDOW_S - now,
        )

    def address(self, scope: Scope) -> str:
        """Where the client of ``scope`` is: what the last trusted proxy saw; IPv6 by site (/64)."""
        peer = (scope.get("client") or ("",))[0]
        here = _parsed(peer)
        if here is None:
            return "unknown"  # a socket without addresses
        for sent in reversed(_forwarded(scope["headers"]) if self._proxies else ()):
            if not self._is_proxy(here):
                break
            before = _parsed(sent)
            if before is None:
                break
            here = before
        if isinstance(here, IPv6Address):
            return str(IPv6Network((here, _IPV6_SITE_BITS), strict=False))
        return str(here)

    def _is_proxy(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._proxies)

    def _make_room(self, address: str) -> None:
        self._failed.pop(address, None)  # so that it comes last again
        if len(self._failed) >= MOST_ADDRESSES:
            del self._failed[next(iter(self._failed))]


def _forwarded(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The addresses of ``X-Forwarded-For``, the nearest last."""
    sent = b",".join(value for name, value in headers if name == b"x-forwarded-for")
    chain = sent[-_LONGEST_CHAIN * 64 :].decode("latin-1").split(",")
    return [address for address in chain if address.strip()][-_LONGEST_CHAIN:]


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
