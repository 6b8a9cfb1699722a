"""Reads a pool's usage records from the store, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from fairgate.admission.link import Link
from fairgate.admission.scripts import lone_script
from fairgate.billing.records import UsageRecord, record_of

BEGIN = "0-0"
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Page:
    """Some records."""

    records: list[UsageRecord]
    whole: bool
    """The one after which it was asked is still there; else some may have gone unread."""


class UsageReader:
    """Of one pool. Every call raises ``StoreError`` when the store is away."""

    def __init__(self, link: Link, pool: str) -> None:
        self.pool = pool
        self._link = link
        self._keys = (f"fg:{{{pool}}}:usage",)
        self._script = lone_script("usage_read")

    async def page(self, after: str, *, last: str = "+", most: int = _PAGE) -> Page:
        """At most so many records behind the entry ``after``."""
        whole, found = await self._link.call(self._script, self._keys, (after, last, most))
        records = [
            record_of(self.pool, entry, dict(zip(flat[::2], flat[1::2], strict=True)))
            for entry, flat in found
        ]
        return Page(records, bool(whole))

    async def between(
        self, since_ms: int | None, until_ms: int | None
    ) -> AsyncIterator[list[UsageRecord]]:
        """Pages of what was charged from ``since_ms`` to before ``until_ms``, since the epoch."""
        after = (
            BEGIN if since_ms is None or since_ms <= 0 else f"{since_ms - 1}-18446744073709551615"
        )
        last = "+" if until_ms is None else f"({max(until_ms, 1)}-0"
        while records := (await self.page(after, last=last)).records:
            yield records
            after = records[-1].entry
