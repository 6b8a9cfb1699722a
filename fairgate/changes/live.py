"""Keeps one process in step with the changes in the store, and makes changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from fairgate.changes.merge import Effective, merged, remerged
from fairgate.changes.overlay import Fields, Object, Overlay, difference
from fairgate.changes.store import ChangeStore
from fairgate.config import Config
from fairgate.errors import StoreError

POLL_S = 0.25
"""So long at most until a change made elsewhere is seen."""

_TRIES = 10

log = structlog.get_logger("fairgate.changes")

TakeUp = Callable[[Config, Collection[Object] | None], None]
"""Has the process work with a configuration; told is what changed, ``None``: anything may have."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change that is to be made."""

    fields: Fields
    entry: bytes
    """What the log says of it, in JSON."""


class LiveChanges:
    """The file's configuration with the overlay of the store, in force in this process.

    The store is asked for its version a few times per second: one small call, which also finds what
    a lost message would have hidden. All methods belong to one event loop.
    """

    def __init__(
        self, base: Config, store: ChangeStore, take_up: TakeUp, *, poll_s: float = POLL_S
    ) -> None:
        self.base = base
        self.overlay = Overlay()
        self.effective = Effective(base)
        self._store = store
        self._take_up = take_up
        self._poll_s = poll_s
        self._polling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take up what is in the store, and go on in the background. Raises ``StoreError``."""
        await self.refresh()
        self._polling = asyncio.create_task(self._keep_in_step(), name="fairgate-changes")

    async def stop(self) -> None:
        """Stop following the store."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)

    def rebase(self, base: Config) -> None:
        """The file changed: put the overlay over ``base``."""
        self.base = base
        self._take(merged(base, self.overlay), None)

    async def refresh(self) -> None:
        """Take up what changed in the store. Raises ``StoreError``.

        A store that forgot the changes, in part or all, gets them back. Cancelled: they are in
        force or not, never in part.
        """
        known = self.overlay
        news = await self._store.news(known)
        if news.what == "same" or self.overlay is not known:
            return
        if news.what == "behind":
            log.warning("the store forgot changes; writing them back", version=known.version)
            await self._store.restore(known)
            return
        fields = news.fields
        if news.what == "all":
            fields = difference(known, {k: v for k, v in fields.items() if v is not None})
        self._follow(fields, news.epoch, news.version)

    async def change(self, decide: Callable[[], Change | None]) -> bool:
        """Make the change that ``decide`` thinks out, given what is in force.

        It is asked again when somebody else changed something meanwhile; what it raises ends this,
        ``None`` means that nothing is to be done. False then. Raises ``StoreError``. Cancelled: the
        change may have been made.
        """
        for _ in range(_TRIES):
            await self.refresh()
            known, change = self.overlay, decide()
            if change is None:
                return False
            made = await self._store.write(known, change.fields, change.entry)
            if made is not None:
                if self.overlay is known:  # else a look has seen it already
                    self._follow(change.fields, *made)
                return True
        raise StoreError("store: others change too much at the same time")

    def base_engines(self, lane: str) -> Collection[str]:
        """Names of the engines that the file has in ``lane``."""
        for pool in self.base.pools.values():
            if lane in pool.lanes:
                return pool.lanes[lane].engines_of(lane)
        return ()

    def preview(self, fields: Fields) -> tuple[Effective, Overlay]:
        """What would be in force if ``fields`` were changed."""
        overlay, concerned = self.overlay.with_fields(
            fields, epoch=self.overlay.epoch, version=self.overlay.version
        )
        return remerged(self.base, overlay, self.effective, concerned), overlay

    def _follow(self, fields: Fields, epoch: str, version: int) -> None:
        self.overlay, concerned = self.overlay.with_fields(fields, epoch=epoch, version=version)
        self._take(remerged(self.base, self.overlay, self.effective, concerned), concerned)

    def _take(self, effective: Effective, concerned: Collection[Object] | None) -> None:
        new = effective.problems.items() - self.effective.problems.items()
        self.effective = effective
        for (kind, name), problems in sorted(new):
            log.error("a change does not fit the file", object=f"{kind} {name}", problems=problems)
        self._take_up(effective.config, concerned)

    async def _keep_in_step(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.refresh()
            except StoreError:
                pass  # said by those who admit requests; what is known stays in force
            except Exception:
                # It must outlive a change that this version cannot read: the next one it may.
                log.exception("changes are not taken up")
