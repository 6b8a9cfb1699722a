"""Changes in the store, as typed calls: the overlay's fields, and the log of who changed what."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from fairgate.admission.link import Link
from fairgate.admission.scripts import lone_script
from fairgate.changes.overlay import Fields, Overlay

LOGGED = 10_000
"""Changes that the log keeps, about."""


@dataclass(frozen=True, slots=True)
class News:
    """What the store says to somebody who knows a version."""

    epoch: str
    version: int
    what: Literal["same", "behind", "some", "all"]
    """``behind``: it knows less than the asker. ``some``: the fields that changed since."""
    fields: Fields


@dataclass(frozen=True, slots=True)
class Logged:
    """One change in the log."""

    version: int
    at_ms: int
    entry: bytes
    """JSON, as :meth:`ChangeStore.write` was given it."""


class ChangeStore:
    """One site's changes. Every call raises ``StoreError`` when the store is away."""

    def __init__(self, link: Link, site: str) -> None:
        self._link = link
        prefix = f"fg:{{admin:{site}}}:"
        self._keys = (f"{prefix}changes", f"{prefix}log")
        self._read, self._write, self._restore, self._log = map(
            lone_script, ("changes_read", "changes_write", "changes_restore", "changes_log")
        )

    async def news(self, known: Overlay) -> News:
        """What changed since ``known``. Cancelled: nothing happened."""
        epoch, version, what, *flat = await self._link.call(
            self._read, self._keys, (known.version, known.epoch)
        )
        return News(
            epoch.decode(),
            int(version),
            cast("Literal['same', 'behind', 'some', 'all']", what.decode()),
            {name.decode(): value or None for name, value in _pairs(flat)},
        )

    async def write(self, known: Overlay, fields: Fields, entry: bytes) -> tuple[str, int] | None:
        """Change ``fields`` and log ``entry``; the epoch and version that this makes.

        ``None``: ``known`` is not the newest version any more, and nothing happened. Cancelled: it
        may have happened.
        """
        begun = secrets.token_hex(8)
        flat = [word for name, value in fields.items() for word in (name, value or b"")]
        version = await self._link.call(
            self._write,
            self._keys,
            (known.version, known.epoch, begun, LOGGED, entry, *flat),
        )
        return (known.epoch or begun, int(version)) if version else None

    async def restore(self, known: Overlay) -> None:
        """Write ``known`` where the store is behind it. Cancelled: it may have happened."""
        flat = [word for name, value in known.fields.items() for word in (name, value)]
        await self._link.call(self._restore, self._keys, (known.version, known.epoch, *flat))

    async def log(self, *, before: int | None, limit: int) -> list[Logged]:
        """The newest changes, or those before the version ``before``; the newest first."""
        top = "+" if before is None else f"({before}-0"
        reply = await self._link.call(self._log, self._keys, (top, limit))
        return [_logged(entry_id, dict(_pairs(flat))) for entry_id, flat in reply]


def _logged(entry_id: bytes, told: Mapping[bytes, bytes]) -> Logged:
    version = int(entry_id.partition(b"-")[0])
    return Logged(version=version, at_ms=int(told[b"at"]), entry=told[b"entry"])


def _pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
