"""Where a client is: the address behind proxies that are trusted, and which ones may do what."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.types import Scope

from fairgate.config.server import Server

_IPV6_SITE_BITS = 64
_LONGEST_CHAIN = 32

_Address = IPv4Address | IPv6Address


class Addresses:
    """Tells clients' addresses, by the configuration of one gateway."""

    def __init__(self, server: Server) -> None:
        self._proxies = tuple(ip_network(proxy) for proxy in server.trusted_proxies)
        self._scrapers = tuple(ip_network(network) for network in server.metrics_from)

    def of(self, scope: Scope) -> str:
        """Where the client of ``scope`` is; IPv6 by site (/64), which one client can have whole."""
        here = self._client(scope)
        if isinstance(here, IPv6Address):
            return str(IPv6Network((here, _IPV6_SITE_BITS), strict=False))
        return "unknown" if here is None else str(here)

    def may_scrape(self, scope: Scope) -> bool:
        """It is among ``server.metrics_from``, or came by a socket without addresses."""
        here = self._client(scope)
        return here is None or any(here in network for network in self._scrapers)

    def _client(self, scope: Scope) -> _Address | None:
        """What the last trusted proxy saw; ``None`` on a socket without addresses."""
        here = _parsed((scope.get("client") or ("",))[0])
        if here is None or not self._proxies:
            return here
        for sent in reversed(_forwarded(scope["headers"])):
            if not any(here in proxy for proxy in self._proxies):
                break
            before = _parsed(sent)
            if before is None:
                break
            here = before
        return here


def _forwarded(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """The addresses of ``X-Forwarded-For``, the nearest last."""
    sent = b",".join(value for name, value in headers if name == b"x-forwarded-for")
    chain = sent[-_LONGEST_CHAIN * 64 :].decode("latin-1").split(",")
    return [address for address in chain if address.strip()][-_LONGEST_CHAIN:]


def _parsed(text: str) -> _Address | None:
    try:
        address = ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
