"""Sessions of browsers, in the store: a random token out, whose hash names who logged in."""

from __future__ import annotations

import secrets
from hashlib import sha256

from fairgate.admission.link import Link
from fairgate.admission.scripts import lone_script


class Sessions:
    """All replicas of a site share them. Every call raises ``StoreError``."""

    def __init__(self, link: Link, site: str) -> None:
        self._link = link
        self._prefix = f"fg:{{admin:{site}}}:session:"
        self._script = lone_script("admin_session")

    async def begin(self, key_id: str, session_s: float) -> str:
        """The token of a new session of that admin key."""
        token = secrets.token_urlsafe(32)
        await self._link.call(self._script, self._keys(token), (key_id, round(session_s * 1000)))
        return token

    async def find(self, token: str) -> str | None:
        """Id of the admin key that the session is of; ``None``: it is none, or over."""
        found = await self._link.call(self._script, self._keys(token), ("",))
        return found.decode() if found else None

    async def end(self, token: str) -> None:
        """Forget it."""
        await self._link.call(self._script, self._keys(token), ("end",))

    def _keys(self, token: str) -> tuple[str]:
        return (self._prefix + sha256(token.encode("utf-8", "surrogatepass")).hexdigest(),)
