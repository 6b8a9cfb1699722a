"""Writes a pool's usage records to files, one JSON line each, every one exactly once.

Where to go on is said by the files themselves: each line names its entry in the store's stream, and
so does the name of a file that was put aside. A writer that was killed goes on behind the last
whole line. A lock lets one process of a machine write at a time; the others stand by.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import structlog

from fairgate.billing.reader import BEGIN, UsageReader
from fairgate.billing.records import UsageRecord, decode, encode
from fairgate.errors import StoreError

EVERY_S = 1.0
_LAST_BYTES = 64 * 1024

log = structlog.get_logger("fairgate.billing")


class UsageFiles:
    """Follows one pool's stream into ``<folder>/<pool>.jsonl``.

    A file of ``max_bytes`` is renamed ``<pool>-<last entry>.jsonl``; none is removed.
    """

    def __init__(self, reader: UsageReader, folder: Path, max_bytes: int) -> None:
        self._reader = reader
        self._folder = folder
        self._max_bytes = max_bytes
        self._current = folder / f"{reader.pool}.jsonl"
        self._lock: BinaryIO | None = None
        self._after = BEGIN
        self._task: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()

    def start(self) -> None:
        """Write in the background. Raises ``OSError`` where the folder cannot be made."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._task = asyncio.create_task(self._run(), name="fairgate-usage-files")

    async def stop(self) -> None:
        """Write what is there still, and let another process go on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._round()
        self._let_go()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            await asyncio.shield(asyncio.ensure_future(self._round()))

    async def _round(self) -> None:
        """Write all that is new; problems are logged, and the next round tries again."""
        async with self._one_at_a_time:
            try:
                await self._write_all()
            except (StoreError, OSError, msgspec.MsgspecError) as error:
                pool = self._reader.pool
                log.error("usage records are not written", pool=pool, error=str(error))
                self._let_go()  # some may be: the next round looks where to go on

    async def _write_all(self) -> None:
        if self._lock is None and not await asyncio.to_thread(self._take_over):
            return
        while True:
            page = await self._reader.page(self._after)
            if page.records and not page.whole:
                log.error(
                    "usage records went before they were written; raise usage.max_records",
                    pool=self._reader.pool, after=self._after,
                )  # fmt: skip
            if not page.records:
                return
            await asyncio.to_thread(self._write, page.records)
            self._after = page.records[-1].entry

    def _take_over(self) -> bool:
        """Get the lock and find out where to go on; False while another process has it."""
        lock = (self._folder / f"{self._reader.pool}.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._after = self._where_to_go_on()
        except BlockingIOError:
            lock.close()
            return False
        except BaseException:
            lock.close()
            raise
        self._lock = lock
        return True

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _where_to_go_on(self) -> str:
        if self._current.exists() and (last := _last_line(self._current)):
            return decode(last).entry
        aside = self._folder.glob(f"{self._reader.pool}-*.jsonl")
        entries = [path.stem.removeprefix(f"{self._reader.pool}-") for path in aside]
        return max(filter(_is_entry, entries), key=_order, default=BEGIN)

    def _write(self, records: Sequence[UsageRecord]) -> None:
        with self._current.open("ab") as file:
            file.write(b"".join(encode(record) + b"\n" for record in records))
            file.flush()
            os.fsync(file.fileno())
            full = file.tell() >= self._max_bytes
        if full:
            last = records[-1].entry
            self._current.rename(self._current.with_name(f"{self._reader.pool}-{last}.jsonl"))


def _last_line(path: Path) -> bytes:
    """The last whole line; what stands behind it was cut off by a crash, and is removed."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        begin = max(0, size - _LAST_BYTES)
        file.seek(begin)
        tail = file.read()
        end = tail.rfind(b"\n") + 1
        file.truncate(begin + end)
    return tail[:end].rstrip(b"\n").rpartition(b"\n")[2]


def _is_entry(text: str) -> bool:
    parts = text.split("-")
    return len(parts) == 2 and all(part.isdigit() for part in parts)


def _order(entry: str) -> tuple[int, int]:
    first, _, second = entry.partition("-")
    return int(first), int(second)
