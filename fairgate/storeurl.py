"""Takes the addresses of stores with several hosts apart: Sentinel's and clusters'.

They are written as users of redis-py's URLs and of the limits library know them:
``redis+sentinel://host:26379,host/master-name/db`` and ``redis+cluster://host:6379,host``;
``rediss+…`` for TLS. User and password are the servers' own; a Sentinel's are
``?sentinel_username=…&sentinel_password=…``; what else is behind the ``?`` is redis-py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

_DEFAULT_PORTS = {"sentinel": 26379, "cluster": 6379}


class Address(NamedTuple):
    """A ``store.url`` with several hosts, taken apart."""

    kind: str
    """``sentinel`` or ``cluster``."""
    scheme: str
    """``redis`` or ``rediss``: how its servers are reached."""
    user: str
    """User and password as they stand in the URL, with the ``@``."""
    hosts: tuple[tuple[str, int], ...]
    master: str
    """The name that the Sentinels know the servers by."""
    path: str
    """The database, with its slash."""
    options: Mapping[str, str]

    def url(self, host: str, port: int) -> str:
        """Of one server, for redis-py."""
        shown = f"[{host}]" if ":" in host else host
        query = {k: v for k, v in self.options.items() if not k.startswith("sentinel_")}
        options = f"?{urlencode(query)}" if query else ""
        return f"{self.scheme}://{self.user}{shown}:{port}{self.path}{options}"

    def sentinel_url(self, host: str, port: int) -> str:
        """Of one Sentinel."""
        name, password = (
            quote(self.options.get(f"sentinel_{k}", ""), safe="") for k in ("username", "password")
        )
        user = f"{name}:{password}@" if name or password else ""
        shown = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{user}{shown}:{port}"


def parse_address(url: str) -> Address | None:
    """``url`` taken apart; ``None`` where it names one server. Raises ``ValueError``."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if not kind:
        return None
    if kind not in _DEFAULT_PORTS or scheme not in ("redis", "rediss"):
        raise ValueError(
            "expected 'embedded' or a redis://, rediss://, unix://, redis+sentinel:// or "
            f"redis+cluster:// address, got scheme '{parts.scheme}'"
        )
    user, at, hosts = parts.netloc.rpartition("@")
    names = [name for name in parts.path.split("/") if name]
    if not hosts:
        raise ValueError(f"expected hosts after {parts.scheme}://, got none")
    if kind == "sentinel" and not names:
        raise ValueError(
            "expected the name of the master after the Sentinels, as in "
            "redis+sentinel://host:26379/mymaster/0, got none"
        )
    if kind == "cluster" and names not in ([], ["0"]):
        raise ValueError(f"expected no database other than 0 in a cluster, got {parts.path!r}")
    return Address(
        kind,
        scheme,
        user + at,
        tuple(_host(host, _DEFAULT_PORTS[kind]) for host in hosts.split(",")),
        unquote(names[0]) if kind == "sentinel" else "",
        f"/{names[1]}" if len(names) > 1 else "",
        dict(parse_qsl(parts.query)),
    )


def _host(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"expected host or host:port, got {text!r}")
    return parts.hostname, parts.port or default_port  # ``port`` raises ValueError itself
