"""The Lua scripts, as shipped in ``fairgate/lua``: shared pieces in front, one script behind."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

_SHARED = ("common", "accounts", "ledger", "capacity", "line", "grant")


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its whole text, and the digest by which the server's cache knows it."""

    name: str
    text: bytes
    sha: bytes


def load_script(name: str) -> Script:
    """Read ``name`` (``admit``, ``settle``, ``cancel`` or ``renew``) from the package."""
    folder = resources.files("fairgate") / "lua"
    text = b"\n".join((folder / f"{part}.lua").read_bytes() for part in (*_SHARED, name))
    return Script(name, text, hashlib.sha1(text).hexdigest().encode())  # noqa: S324 — EVALSHA's digest
