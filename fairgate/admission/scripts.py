"""The Lua scripts, as shipped in ``fairgate/lua``: shared pieces in front, one script behind."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

_SHARED = (
    "common", "accounts", "lanes", "profiles", "history", "ledger", "capacity", "line", "headroom",
    "usage",
    "grant",
)  # fmt: skip
_FRONT = {"renew": ("recovery",)}
"""What only one script needs."""


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its whole text, and the digest by which the server's cache knows it."""

    name: str
    text: bytes
    sha: bytes


def load_script(name: str) -> Script:
    """Read one of the package's scripts: ``admit``, ``settle``, ``cancel``, ``renew``, ``view`` or
    ``inspect``."""
    return compose_script(name, b"\n".join(map(_read, (*_FRONT.get(name, ()), name))))


def compose_script(name: str, text: bytes) -> Script:
    """A script of one's own behind the shared pieces, for looking at a pool's state."""
    return _script(name, b"\n".join((*map(_read, _SHARED), text)))


def lone_script(name: str) -> Script:
    """``name`` from the package, which has nothing to do with the ledger: without those pieces."""
    return _script(name, _read(name))


def _script(name: str, whole: bytes) -> Script:
    return Script(name, whole, hashlib.sha1(whole).hexdigest().encode())  # noqa: S324 — EVALSHA's digest


def _read(part: str) -> bytes:
    return (resources.files("fairgate") / "lua" / f"{part}.lua").read_bytes()
