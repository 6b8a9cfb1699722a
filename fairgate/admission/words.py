"""What a script is called with, as the store reads it: each word behind its length."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from hiredis import pack_command

from fairgate.admission.scripts import Script

Argument = str | bytes | int | float


class Words(NamedTuple):
    """Keys and arguments of one call."""

    keys: int
    """How many of them are keys: the first ones."""
    total: int
    packed: bytes


def words_of(keys: Sequence[str | bytes], args: Sequence[Argument]) -> Words:
    """``keys``, of which there is one at least, and ``args``."""
    packed = command((*keys, *args))
    return Words(len(keys), len(keys) + len(args), packed[packed.index(b"\r\n") + 2 :])


def command(words: Any) -> bytes:
    """A whole command. ``words`` is ``Any``: the types that hiredis states are those of one."""
    packed: bytes = pack_command(words)
    return packed


def word(data: bytes) -> bytes:
    """One word: who makes the same calls again and again keeps those that do not change, which
    takes a third of packing them all."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def as_function(script: Script, words: Words) -> bytes:
    """The call of a function of the library."""
    return _head(b"FCALL", script.function, words.keys, words.total) + words.packed


def as_script(script: Script, words: Words, *, whole: bool) -> bytes:
    """The call of a script, by its text or by the digest of it."""
    name, known = (b"EVAL", script.text) if whole else (b"EVALSHA", script.sha)
    return _head(name, known, words.keys, words.total) + words.packed


@lru_cache(maxsize=64)
def _head(name: bytes, script: bytes, keys: int, count: int) -> bytes:
    return b"*%d\r\n" % (3 + count) + word(name) + word(script) + word(b"%d" % keys)
