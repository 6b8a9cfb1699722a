"""Asks the admin API over HTTP, for the command line."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from fairgate.admin.calls import PREFIX
from fairgate.errors import AdminError

_TIMEOUT_S = 30.0


class AdminClient:
    """One gateway's API. Every call raises :class:`AdminError`."""

    def __init__(self, url: str, key: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise AdminError(f"url: expected an http:// or https:// address, got {url!r}")
        self._url = url.rstrip("/") + PREFIX
        self._key = key

    def call(
        self,
        method: str,
        *path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Any:
        """The answer to one call; ``path`` in its parts."""
        with self._open(method, path, body, query) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def lines(self, *path: str, query: Mapping[str, Any]) -> Iterator[bytes]:
        """An answer of many lines, line by line."""
        with self._open("GET", path, None, query) as answer:
            yield from answer

    def _open(
        self,
        method: str,
        path: tuple[str, ...],
        body: Mapping[str, Any] | None,
        query: Mapping[str, Any] | None,
    ) -> Any:
        said = {name: value for name, value in (query or {}).items() if value not in (None, "")}
        url = "/".join((self._url, *(quote(part, safe="") for part in path)))
        request = urllib.request.Request(  # noqa: S310 — http only, see above
            f"{url}?{urlencode(said)}" if said else url,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "authorization": f"Bearer {self._key}",
                "content-type": "application/json",
            },
        )
        try:
            return urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
        except urllib.error.HTTPError as error:
            raise AdminError(_why(error)) from None
        except OSError as error:
            raise AdminError(f"{self._url} does not answer: {error}") from None


def _why(error: urllib.error.HTTPError) -> str:
    try:
        problem = json.loads(error.read())
    except ValueError:
        return f"{error.code} {error.reason}"
    if told := problem.get("errors"):
        return "\n".join(f"{line['field']}: {line['message']}" for line in told)
    return str(problem.get("detail") or f"{error.code} {error.reason}")
