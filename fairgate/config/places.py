"""Where engines may be that are added while gateways run: networks, and names of hosts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from fairgate.config.admin import EnginePlace

_ANYWHERE = "*"
_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def is_place(host: str) -> bool:
    """Whether ``host`` can be that of an :class:`EnginePlace`."""
    return host == _ANYWHERE or _network(host) is not None or _is_name(host)


def place_of(url: str, places: Sequence[EnginePlace]) -> EnginePlace | None:
    """The first of ``places`` that holds the server at ``url``; ``None``: it may not be there.

    Addresses are compared with networks, names with names. What a name stands for is not looked
    up: who allows a name trusts whoever says where it leads.
    """
    host = (urlsplit(url).hostname or "").rstrip(".")
    return next((place for place in places if _holds(place.host.lower(), host)), None)


def _holds(allowed: str, host: str) -> bool:
    if allowed == _ANYWHERE:
        return True
    network, address = _network(allowed), _address(host)
    if network is not None or address is not None:
        return network is not None and address is not None and address in network
    if allowed.startswith("*."):
        return host.endswith(allowed[1:])
    return host == allowed


def _is_name(host: str) -> bool:
    # Not of digits alone at its end, which resolvers take for an address.
    return bool(_NAME.fullmatch(host.lower())) and not host.rpartition(".")[2].isdigit()


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
