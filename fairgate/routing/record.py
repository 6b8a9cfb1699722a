"""Writes what was decided for live traffic and what came of it, as JSON lines.

One line when an answer ends (``event: served``), one when its feedback comes (``event: scored``);
``fairgate router label`` joins them by ``id``. Without ``prompts`` no line holds anything that a
client wrote, and ids are digests.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from pathlib import Path
from typing import Any

import msgspec
import orjson
import structlog

from fairgate.config.routing import Record as Settings
from fairgate.routing.routed import Outcome, Routed

log = structlog.get_logger("fairgate.routing")

_MOST_LINES = 10_000


class Wanted(msgspec.Struct, frozen=True):
    """What ``fairgate router record`` asks for."""

    share: float = 1.0
    prompts: bool = False


_decode_wanted = msgspec.json.Decoder(Wanted).decode


class Recorder:
    """Of one pool in one process: to the configured file, and to who asks for it.

    A disk that fails is reported once, and costs no request.
    """

    def __init__(self, settings: Settings | None) -> None:
        self._settings = settings or Settings(share=0.0)
        self._path = Path(self._settings.file) if self._settings.file else None
        self._wanted: Wanted | None = None
        self._lines: list[bytes] = []
        self._told: list[bytes] = []
        self._failed = False

    def asked(self, wanted: bytes) -> None:
        """What is asked for now, as the store has it; nothing: nobody asks."""
        try:
            self._wanted = _decode_wanted(wanted) if wanted else None
        except msgspec.DecodeError:
            self._wanted = None

    def served(self, routed: Routed, outcome: Outcome, model: str) -> bool:
        """A request was served; whether that is recorded, so that its feedback is as well.

        The same share of interactions is taken everywhere, and all requests of those.
        """
        request = routed.request
        identity = request.interaction or f"{request.tenant}:{request.id}"
        at = zlib.crc32(identity.encode()) / 2**32
        to_file = self._path is not None and at < self._settings.share
        to_who_asks = self._wanted is not None and at < self._wanted.share
        if not (to_file or to_who_asks):
            return False
        line = _line(routed, outcome, model)
        full = {**line, "prompt": request.text} if self._settings.prompts else line
        if to_file:
            self._lines.append(_encode(full))
        if self._wanted is not None and to_who_asks:
            self._told.append(_encode(full if self._wanted.prompts else line))
        self._bound()
        return True

    def scored(self, tenant: str, request_id: str, score: float) -> None:
        """Feedback came to a request that is recorded."""
        line = _encode({"event": "scored", "id": _id(tenant, request_id), "score": score})
        if self._path is not None:
            self._lines.append(line)
        if self._wanted is not None:
            self._told.append(line)
        self._bound()

    def _bound(self) -> None:
        for lines in (self._lines, self._told):
            if len(lines) > _MOST_LINES:
                del lines[: len(lines) - _MOST_LINES]

    def told(self) -> list[bytes]:
        """Lines for who asks, since the last call of this method."""
        told, self._told = self._told, []
        return told

    def flush(self) -> None:
        """Write what is waiting for the disk."""
        lines, self._lines = self._lines, []
        if not lines or self._path is None:
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


def _line(routed: Routed, outcome: Outcome, model: str) -> dict[str, Any]:
    request, decision = routed.request, routed.decision
    return {
        "event": "served",
        "id": _id(request.tenant, request.id),
        "time": round(time.time(), 3),
        "app": request.app,
        "lane": outcome.lane,
        "model": model,
        "samples": outcome.samples,
        "router": decision.router,
        "version": decision.version,
        "reason": decision.reason,
        "trial": routed.trial,
        "quality": request.quality,
        "predicted": {lane: round(p, 4) for lane, p in decision.predicted.items()},
        "confidence": decision.confidence,
        "prompt_tokens": outcome.prompt_tokens,
        "output_tokens": outcome.output_tokens,
        "seconds": round(outcome.seconds, 4),
        "ended": outcome.ended,
    }


def _id(tenant: str, request_id: str) -> str:
    """Names a request in records, and tells nobody who sent it."""
    return hashlib.blake2b(f"{tenant}\0{request_id}".encode(), digest_size=12).hexdigest()


def _encode(line: dict[str, Any]) -> bytes:
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
