"""Writes what was decided for live traffic and what came of it, as JSON lines.

One line when an answer ends (``event: served``), one when its feedback comes (``event: scored``);
``fairgate router label`` joins them by ``id``. Without ``prompts`` no line holds anything that a
client wrote, and ids are digests.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Any

import orjson
import structlog

from fairgate.configrouting import Record as Settings

log = structlog.get_logger("fairgate.routing")

_FLUSHED = 64


class Recorder:
    """One file, appended to. A disk that fails is reported once and costs no request."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = Path(settings.file)
        self._lines: list[bytes] = []
        self._failed = False

    @property
    def prompts(self) -> bool:
        """Whether lines hold the text of prompts."""
        return self._settings.prompts

    def takes(self, identity: str) -> bool:
        """Whether it records what belongs to ``identity``: an interaction, or a lone request.

        The same on every replica; and a request is recorded wherever its feedback arrives.
        """
        return zlib.crc32(identity.encode()) < self._settings.share * 2**32

    def write(self, line: dict[str, Any]) -> None:
        """Add one line; it reaches the disk with the next heartbeat, or sooner."""
        self._lines.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        if len(self._lines) >= _FLUSHED:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            if self._path.exists() and self._path.stat().st_size > self._settings.max_bytes:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            with self._path.open("ab") as file:
                file.write(b"".join(lines))
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.error("cannot record", file=str(self._path), error=str(error))
            self._failed = True


def record_id(tenant: str, request_id: str) -> str:
    """Names a request in records, and tells nobody who sent it."""
    return hashlib.blake2b(f"{tenant}\0{request_id}".encode(), digest_size=12).hexdigest()
