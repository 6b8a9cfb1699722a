"""The overlay: what was changed of the file's objects, field by field as the store keeps it.

A field is named ``tenant/<tenant>``, ``key/<sha256>``, ``app/<app>``, ``lane/<lane>`` or
``engine/<lane>/<engine>``; its value is an :class:`Entry` or a :class:`KeyEntry` in JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct, field

Object = tuple[str, str]
"""Kind and name, such as ``("tenant", "acme")``."""

KEY = "key"


class Entry(Struct, frozen=True, omit_defaults=True):
    """What was changed of one object."""

    patch: dict[str, Any] = field(default_factory=dict)
    """A JSON merge patch (RFC 7396): what it says goes before the file, null stands for the
    default."""
    fresh: bool = False
    """It was created here: the file's object of that name, if any, does not count."""
    gone: bool = False
    """It was deleted."""


class KeyEntry(Struct, frozen=True, omit_defaults=True):
    """An API key that was created here, or one of the file that was revoked (``gone``)."""

    tenant: str
    name: str = ""
    user: str | None = None
    apps: tuple[str, ...] | None = None
    created: float = 0.0
    """Seconds since the epoch."""
    gone: bool = False


_entries = msgspec.json.Decoder(Entry)
_key_entries = msgspec.json.Decoder(KeyEntry)
encode = msgspec.json.Encoder().encode

Fields = Mapping[str, bytes | None]
"""Values by field; ``None``: there is none any more."""


class Overlay:
    """All changes at one version. Immutable: :meth:`with_fields` makes the next one."""

    def __init__(self) -> None:
        self.epoch = ""
        """Names the history that ``version`` counts; empty before the first change."""
        self.version = 0
        self.fields: dict[str, bytes] = {}
        self.entries: dict[Object, Entry] = {}
        self.keys: dict[str, dict[str, KeyEntry]] = {}
        """By tenant and SHA-256."""

    def with_fields(
        self, fields: Fields, *, epoch: str, version: int
    ) -> tuple[Overlay, set[Object]]:
        """The overlay with ``fields`` changed, and the objects that this concerns."""
        new = Overlay()
        new.epoch, new.version = epoch, version
        new.fields, new.entries, new.keys = dict(self.fields), dict(self.entries), dict(self.keys)
        concerned: set[Object] = set()
        for name, value in fields.items():
            kind, _, rest = name.partition("/")
            concerned.add(new._set_key(rest, value) if kind == KEY else (kind, rest))
            if kind != KEY:
                new._set_entry((kind, rest), value)
            if value is None:
                new.fields.pop(name, None)
            else:
                new.fields[name] = value
        return new, concerned

    def objects(self) -> set[Object]:
        """All objects that something was changed of."""
        return {*self.entries, *(("tenant", tenant) for tenant in self.keys)}

    def added_engines(self, lane: str) -> dict[str, Entry]:
        """Those of ``lane`` that are not of the file, by name."""
        return {
            name.partition("/")[2]: entry
            for (kind, name), entry in self.entries.items()
            if kind == "engine" and entry.fresh and name.startswith(f"{lane}/")
        }

    def _set_entry(self, of: Object, value: bytes | None) -> None:
        if value is None:
            self.entries.pop(of, None)
        else:
            self.entries[of] = _entries.decode(value)

    def _set_key(self, sha256: str, value: bytes | None) -> Object:
        before = self.fields.get(f"{KEY}/{sha256}")
        told = value or before
        if told is None:  # it came and went between two looks
            return KEY, sha256
        entry = _key_entries.decode(told)
        keys = dict(self.keys.get(entry.tenant, {}))
        if value is None:
            keys.pop(sha256, None)
        else:
            keys[sha256] = entry
        if keys:
            self.keys[entry.tenant] = keys
        else:
            self.keys.pop(entry.tenant, None)
        return "tenant", entry.tenant


def difference(old: Overlay, fields: Mapping[str, bytes]) -> Fields:
    """What makes of ``old`` an overlay with exactly ``fields``."""
    gone: Iterable[str] = old.fields.keys() - fields.keys()
    changed = {name: value for name, value in fields.items() if old.fields.get(name) != value}
    return {**dict.fromkeys(gone), **changed}


def patched(target: object, patch: object) -> Any:
    """``target`` with the merge patch ``patch`` applied (RFC 7396, section 2)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = patched(result.get(name), value)
    return result


def joined(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """One merge patch that does what ``first`` and ``then`` do, one after the other."""
    result = dict(first)
    for name, value in then.items():
        before = result.get(name)
        both = isinstance(before, dict) and isinstance(value, dict)
        result[name] = joined(before, value) if both else value  # type: ignore[arg-type]
    return result
