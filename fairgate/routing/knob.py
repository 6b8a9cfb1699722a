"""The quality knob of one request: what its client asks for, by model name or header."""

from __future__ import annotations

from collections.abc import Iterable

from fairgate.config.rules import AUTO_MODEL
from fairgate.errors import BadRequest

HEADER = b"x-fairgate-quality"

_SHOWN = 40


def asked_quality(model: str | None, headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Quality, 0 to 1, that ``model`` (``auto:0.8``) names, else ``X-Fairgate-Quality``.

    ``None`` where neither does. The model goes first: clients set headers once for all requests.
    Raises ``BadRequest`` that names the field and its value for anything but a number in 0..1.
    """
    if model and model != AUTO_MODEL:
        named = model.removeprefix(f"{AUTO_MODEL}:")
        return _quality(named, "model", f"'{AUTO_MODEL}' or '{AUTO_MODEL}:QUALITY'", model)
    for name, value in headers:
        if name == HEADER:
            sent = value.decode("latin-1")
            return _quality(sent, "X-Fairgate-Quality", "a quality", sent)
    return None


def _quality(text: str, field: str, expected: str, sent: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        quality = -1.0
    if 0 <= quality <= 1:
        return quality
    raise BadRequest(
        f"{field}: expected {expected} with 0 (cheapest) to 1 (best), got {sent[:_SHOWN]!r}",
        code="invalid_quality",
        param=field,
    )
