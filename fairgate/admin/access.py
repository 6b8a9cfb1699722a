"""Who may operate the gateway: an admin key, or a session that began with one."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hashlib import sha256
from http.cookies import SimpleCookie

from starlette.types import Scope

from fairgate.errors import NotFound, Unauthenticated
from fairgate.runtime import Runtime

_COOKIE = "fairgate_session"


@dataclass(frozen=True, slots=True)
class Admin:
    """An operator."""

    key_id: str
    name: str
    by_cookie: bool
    may_change: bool


class Access:
    """Knows the admin keys of one gateway, and who is logged in."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._sessions: dict[str, Admin] = {}

    async def who(self, scope: Scope) -> Admin:
        """Who sends the request. Raises ``NotFound`` (off) and ``Unauthenticated``."""
        if not self._runtime.config.admin.keys:
            raise NotFound(f"no such route: {scope['path'][:200]}")
        fields = dict(scope["headers"])
        authorization = fields.get(b"authorization", b"")
        if authorization[:7].lower() == b"bearer ":
            return self._find(authorization[7:].strip(), by_cookie=False)
        session = self._sessions.get(_cookie(fields))
        if session is None:
            raise Unauthenticated("log in with an admin key")
        return session

    async def begin(self, scope: Scope, key: str) -> bytes:
        """Log in; the value of a set-cookie header. Raises as :meth:`who`."""
        token = secrets.token_urlsafe(32)
        self._sessions[token] = self._find(key.encode(), by_cookie=True)
        return f"{_COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict".encode()

    async def end(self, scope: Scope) -> bytes:
        """Log out; the value of a set-cookie header."""
        self._sessions.pop(_cookie(dict(scope["headers"])), None)
        return f"{_COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0".encode()

    def _find(self, key: bytes, *, by_cookie: bool) -> Admin:
        digest = sha256(key).hexdigest()
        for known in self._runtime.config.admin.keys:
            if secrets.compare_digest(known.sha256, digest):
                return Admin(digest[:12], known.name, by_cookie, self._runtime.config.admin.changes)
        raise Unauthenticated("unknown admin key")


def _cookie(fields: dict[bytes, bytes]) -> str:
    found = SimpleCookie(fields.get(b"cookie", b"").decode("latin-1")).get(_COOKIE)
    return found.value if found else ""
