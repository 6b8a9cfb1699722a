"""What a command line calls a scorer, as the configuration has it."""

from __future__ import annotations

from typing import Any

import msgspec

from fairgate.config.sampling import Scorer

NAMES = "log-probability, self-consistency, agreement, verifier=PACKAGE.MODULE:NAME or http=URL"

TIMEOUT_S = 60.0
"""Of a verifier's or a service's scores: nobody waits for them here."""

_NAMED_BY = {"verifier": "function", "http": "url"}


def scorer_section(text: str) -> Scorer:
    """The configuration of the scorer ``text``, one of :data:`NAMES`.

    Raises ``ValueError`` that says what was expected.
    """
    kind, _, value = text.partition("=")
    section: dict[str, Any] = {"type": kind}
    if field := _NAMED_BY.get(kind):
        section |= {field: value, "timeout_s": TIMEOUT_S}
    try:
        if kind == "http" and not value.startswith(("http://", "https://")):
            raise ValueError("a URL is missing")
        if value and field is None:
            raise ValueError(f"'{kind}' takes no value")
        found: Scorer = msgspec.convert(section, Scorer)
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"expected {NAMES}, got '{text}': {error}") from error
    return found


def kind_of(section: Scorer) -> str:
    """Its ``type`` in the configuration."""
    return str(msgspec.to_builtins(section)["type"])
