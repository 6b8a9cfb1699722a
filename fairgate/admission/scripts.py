"""The Lua scripts, as shipped in ``fairgate/lua``: shared pieces in front, one script behind.

The ledger's scripts exist twice, from the same files: as functions of one library for ``FCALL``,
and one by one for ``EVALSHA``, where a server takes no functions. A script makes the shared pieces
anew in each of its calls, which takes a third of the server's instructions; a library does so once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

_SHARED = (
    "common", "accounts", "lanes", "profiles", "interactions", "history", "ledger", "capacity",
    "line", "headroom", "usage", "grant", "recovery", "aside",
)  # fmt: skip
_CALLS = ("admit", "settle", "cancel", "renew", "view", "inspect", "adopt", "charge")
_READING = ("view", "inspect")


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its whole text, the digest by which the server's cache knows it, and the name of
    its function in the library, if it has one."""

    name: str
    text: bytes
    sha: bytes
    function: bytes = b""


@dataclass(frozen=True, slots=True)
class Library:
    """All of the ledger's scripts as the functions of one library for ``FUNCTION LOAD``.

    Its name has a digest of its text, so that releases that share a store do not meet in it.
    """

    name: str
    text: bytes
    presence: bytes
    """Name of a function that does nothing: whether there is the library."""


def load_script(name: str) -> Script:
    """Read one of the package's scripts: ``admit``, ``settle``, ``cancel``, ``renew``, ``view``,
    ``inspect``, ``adopt`` or ``charge``."""
    script = compose_script(name, _read(name))
    return Script(name, script.text, script.sha, _function(name, load_library().name))


@cache
def load_library() -> Library:
    """Read all of them as one library."""
    text = b"\n".join((
        b"local KEYS, ARGV",
        *map(_read, _SHARED),
        *(b"local function %s()\n%s\nend" % (name.encode(), _read(name)) for name in _CALLS),
    ))  # fmt: skip
    name = f"fairgate_{hashlib.sha1(text).hexdigest()[:12]}"  # noqa: S324 — no secret
    presence = _function("present", name)
    text = b"\n".join((
        b"#!lua name=%s" % name.encode(),
        text,
        *(_registration(call, name) for call in _CALLS),
        b"redis.register_function('%s', function() return 1 end)" % presence,
    ))  # fmt: skip
    return Library(name, text, presence)


def compose_script(name: str, text: bytes) -> Script:
    """A script of one's own behind the shared pieces, for looking at a pool's state."""
    return _script(name, b"\n".join((*map(_read, _SHARED), b"fg.begin()", text)))


def lone_script(name: str) -> Script:
    """``name`` from the package, which has nothing to do with the ledger: without those pieces."""
    return _script(name, _read(name))


def _script(name: str, whole: bytes) -> Script:
    return Script(name, whole, hashlib.sha1(whole).hexdigest().encode())  # noqa: S324 — EVALSHA's digest


def _function(name: str, library: str) -> bytes:
    return f"{library}_{name}".encode()


def _registration(name: str, library: str) -> bytes:
    flags = b"'no-writes'" if name in _READING else b""
    return b"""
redis.register_function{function_name = '%s', flags = {%s}, callback = function(keys, args)
  KEYS, ARGV = keys, args
  fg.begin()
  return %s()
end}""" % (_function(name, library), flags, name.encode())


@cache
def _read(part: str) -> bytes:
    return (resources.files("fairgate") / "lua" / f"{part}.lua").read_bytes()
