"""Tells which operator asks: by admin key, or by the session of a browser that logged in."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from msgspec import Struct
from starlette.types import Scope

from fairgate.admin.sessions import Sessions
from fairgate.config.admin import AdminKey
from fairgate.errors import Forbidden, NotFound, Unauthenticated
from fairgate.runtime import Runtime

COOKIE = "fairgate_session"
_SECURE_COOKIE = f"__Host-{COOKIE}"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LONGEST_KEY = 512

Fields = Mapping[bytes, bytes]


class Admin(Struct, frozen=True):
    """An operator."""

    key_id: str
    """First 12 hex digits of the key's hash."""
    name: str
    by_cookie: bool = False
    may_change: bool = True
    """The configuration allows changes."""


class Access:
    """Of one app; sessions are in the store."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._sessions = Sessions(runtime.link, runtime.config.admin.site)

    @property
    def on(self) -> bool:
        """There is a key, so that the API is there."""
        return bool(self._runtime.config.admin.keys)

    async def who(self, scope: Scope) -> Admin:
        """The operator who sends the request in ``scope``.

        Raises ``NotFound`` where there are no admin keys, ``Unauthenticated``, ``Throttled`` for an
        address that guesses, ``Forbidden`` for a change that another site has a browser send, and
        ``StoreError``.
        """
        if not self.on:
            raise NotFound(f"no such route: {scope['path'][:200]}")
        fields: dict[bytes, bytes] = dict(scope["headers"])
        authorization = fields.get(b"authorization", b"")
        if authorization[:7].lower() == b"bearer ":
            return self._admin(self._key(scope, authorization[7:].strip()))
        for token in _tokens(fields):
            key_id = await self._sessions.find(token)
            key = next((k for k in self._keys() if k.sha256[:12] == key_id), None)
            if key is not None:
                if scope["method"] not in _SAFE_METHODS and not _from_own_page(fields):
                    raise Forbidden("A page of another origin sent this request.", code="origin")
                return self._admin(key, by_cookie=True)
        raise Unauthenticated("No admin key: send 'Authorization: Bearer KEY', or log in.")

    async def begin(self, scope: Scope, key: str) -> bytes:
        """Log a browser in: the value of the ``set-cookie`` header. Raises as :meth:`who`."""
        if not self.on:
            raise NotFound(f"no such route: {scope['path'][:200]}")
        fields: dict[bytes, bytes] = dict(scope["headers"])
        told = b"origin" in fields or b"sec-fetch-site" in fields
        if told and not _from_own_page(fields):
            raise Forbidden("A page of another origin sent this request.", code="origin")
        found = self._key(scope, key.strip().encode("utf-8", "surrogatepass"))
        session_s = self._runtime.config.admin.session_s
        token = await self._sessions.begin(found.sha256[:12], session_s)
        return _cookie(scope, fields, token, round(session_s))

    async def end(self, scope: Scope) -> bytes:
        """Log it out: the value of the ``set-cookie`` header. Raises ``StoreError``."""
        fields: dict[bytes, bytes] = dict(scope["headers"])
        for token in _tokens(fields):
            await self._sessions.end(token)
        return _cookie(scope, fields, "", 0)

    def _keys(self) -> tuple[AdminKey, ...]:
        return self._runtime.config.admin.keys

    def _key(self, scope: Scope, text: bytes) -> AdminKey:
        # What is compared is the hash of the key: its timing tells nothing of use (see identity).
        digest = sha256(text).hexdigest() if 0 < len(text) <= _LONGEST_KEY else ""
        for key in self._keys():
            if key.sha256 == digest:
                return key
        self._runtime.failed_keys.count(scope)
        raise Unauthenticated("Unknown admin key.")

    def _admin(self, key: AdminKey, *, by_cookie: bool = False) -> Admin:
        may_change = self._runtime.changes is not None
        return Admin(key.sha256[:12], key.name, by_cookie, may_change)


def _from_own_page(fields: Fields) -> bool:
    site = fields.get(b"sec-fetch-site")
    if site is not None:
        return site == b"same-origin"
    origin = urlsplit(fields.get(b"origin", b"").decode("latin-1"))
    return bool(origin.netloc) and origin.netloc == fields.get(b"host", b"").decode("latin-1")


def _tokens(fields: Fields) -> list[str]:
    try:
        cookies = SimpleCookie(fields.get(b"cookie", b"").decode("latin-1"))
    except CookieError:
        return []
    return [cookies[name].value for name in (_SECURE_COOKIE, COOKIE) if name in cookies]


def _cookie(scope: Scope, fields: Fields, token: str, age_s: int) -> bytes:
    # Whoever forges the header gets a cookie that is sent over https only: no harm.
    https = scope.get("scheme") == "https" or fields.get(b"x-forwarded-proto") == b"https"
    name = _SECURE_COOKIE if https else COOKIE
    text = f"{name}={token}; Max-Age={age_s}; Path=/; HttpOnly; SameSite=Strict"
    return (text + "; Secure" if https else text).encode()
