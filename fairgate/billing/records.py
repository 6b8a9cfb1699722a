"""One usage record, as the files, the API and the exports have it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from fairgate.billing.note import Status


class UsageRecord(Struct, frozen=True, gc=False):
    """One line. ``None``: not known."""

    entry: str
    """Its place in the store's stream; unique in its pool, and ascending."""
    id: str
    """Of the request, unique over all gateways; only a line ``corrected`` has that of another."""
    request_id: str
    """``x-request-id``, which the client may have chosen."""
    at: str
    """When it was charged, by the store's clock, in UTC."""
    pool: str
    tenant: str
    user: str
    app: str
    interaction: str | None
    key: str
    """Id of the API key."""
    lane: str
    engine: str
    model: str
    status: Status
    prompt_tokens: int | None
    cached_tokens: int | None
    """Of the prompt."""
    output_tokens: int | None
    tokens: int
    """What this line adds to the tokens that the tenant is charged for."""
    cost: float
    """What it adds to the tenant's service, in units, price included."""
    queue_ms: float | None


FIELDS = UsageRecord.__struct_fields__

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(UsageRecord).decode


def record_of(pool: str, entry: bytes, told: Mapping[bytes, bytes]) -> UsageRecord:
    """The record that the stream's ``entry`` tells."""
    text = {name.decode(): value.decode("utf-8", "replace") for name, value in told.items()}
    at = datetime.fromtimestamp(int(text["at"]) / 1000, UTC)
    return UsageRecord(
        entry=entry.decode(),
        id=text["id"],
        request_id=text["request_id"],
        at=at.isoformat(timespec="milliseconds"),
        pool=pool,
        tenant=text["tenant"],
        user=text["user"],
        app=text["app"],
        interaction=text["interaction"] or None,
        key=text["key"],
        lane=text["lane"],
        engine=text["engine"],
        model=text["model"],
        status=msgspec.convert(text["status"], Status),
        prompt_tokens=_whole(text["prompt_tokens"]),
        cached_tokens=_whole(text["cached_tokens"]),
        output_tokens=_whole(text["output_tokens"]),
        tokens=int(text["tokens"]),
        cost=float(text["cost"]),
        queue_ms=float(text["queue_ms"]) if text["queue_ms"] else None,
    )


def _whole(text: str) -> int | None:
    return int(text) if text else None


def milliseconds(text: str | None) -> int | None:
    """Since the epoch, of a day or time of ISO 8601; UTC unless it says else. ``None`` of none.

    Raises ``ValueError`` with what was expected.
    """
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"expected a day or time such as 2026-11-30, got {text[:40]!r}") from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
