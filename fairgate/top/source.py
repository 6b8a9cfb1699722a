"""Ledger and queue of a gateway, by its JSON routes."""

from __future__ import annotations

import urllib.error
import urllib.request

import msgspec

from fairgate.errors import FairgateError
from fairgate.inspection.report import Ledger, Queue

_TIMEOUT_S = 5.0

_ledgers = msgspec.json.Decoder(Ledger)
_queues = msgspec.json.Decoder(Queue)


class Source:
    """One gateway and the admin key for it."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url.rstrip("/")
        self._key = key

    def look(self) -> tuple[Ledger, Queue]:
        """What it tells now. Raises ``FairgateError`` with the reason when it tells nothing."""
        try:
            return _ledgers.decode(self._get("ledger")), _queues.decode(self._get("queue"))
        except urllib.error.HTTPError as error:
            raise FairgateError(f"{self._url} answered {error.code}: {_detail(error)}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise FairgateError(f"{self._url} does not answer: {reason}") from error
        except msgspec.DecodeError as error:
            raise FairgateError(f"{self._url} answers what is no ledger: {error}") from error

    def _get(self, what: str) -> bytes:
        headers = {"authorization": f"Bearer {self._key}", "accept": "application/problem+json"}
        request = urllib.request.Request(f"{self._url}/fairgate/v1/{what}", headers=headers)  # noqa: S310 — the operator's own address
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 — as above
            return bytes(answer.read())


def _detail(error: urllib.error.HTTPError) -> str:
    """What the answer says, where it says something."""
    try:
        told = msgspec.json.decode(error.read())
        return str(told.get("detail") or told["error"]["message"])
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError, OSError):
        return str(error.reason)
