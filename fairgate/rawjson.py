"""JSON taken apart without decoding its values, and bounded: a flood is refused as it is met.

Skipping a value is cheap, keeping millions of them is not: 16 MB of nothing but keys would hold the
event loop for a second.
"""

from __future__ import annotations

import threading
from typing import cast

from msgspec import Raw
from msgspec.json import Decoder, decode

from fairgate.errors import BadRequest

MAX_FIELDS = 1024
"""Keys that an object may have."""


class _Text(str):
    """A decoded string that went through a :class:`_Counter`."""

    __slots__ = ()


class _Counter:
    """Decoding hook that counts strings and stops at a limit."""

    __slots__ = ("count", "limit", "what")

    def __init__(self, limit: int, what: str) -> None:
        self.count = 0
        self.limit = limit
        self.what = what

    def __call__(self, _type: type, text: str) -> _Text:
        self.count += 1
        if self.count > self.limit:
            param = self.what if self.what.isidentifier() else None
            raise BadRequest(f"{self.what}: expected at most {self.limit} entries", param=param)
        return _Text(text)


def decode_object(data: bytes | Raw, what: str) -> tuple[dict[str, Raw], bool]:
    """The fields of a JSON object as raw slices (of two alike the last), and whether any two are.

    Raises ``BadRequest`` naming ``what`` beyond :data:`MAX_FIELDS`, msgspec's ``ValidationError``
    when it is no object, its ``DecodeError`` or ``RecursionError`` when it is no readable JSON.
    """
    keys = _objects.keys
    keys.count, keys.what = 0, what
    fields = _objects.decode(data)
    return cast("dict[str, Raw]", fields), keys.count != len(fields)


class _Objects(threading.local):
    """Making a decoder takes longer than most bodies do, and its hook counts for one at a time."""

    def __init__(self) -> None:
        self.keys = _Counter(MAX_FIELDS, "")
        self.decode = Decoder(dict[_Text, Raw], dec_hook=self.keys).decode


_objects = _Objects()


def count_strings(data: bytes, limit: int, what: str) -> int:
    """Strings in a JSON list of strings. Raises as :func:`decode_object`."""
    texts = _Counter(limit, what)
    decode(data, type=list[_Text], dec_hook=texts)
    return texts.count
