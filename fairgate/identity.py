"""Tells who sends a request: API key and headers in, principal out.

On the path of every request, so everything that depends on the configuration alone is made ready
when it is loaded; a reload builds a new :class:`Identity`, a change of single tenants changes it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b, sha256
from inspect import isawaitable

from msgspec import Struct
from msgspec.structs import replace
from starlette.types import Scope

from fairgate.config import Config, Key, Limits, RateLimits, Tenant
from fairgate.errors import Forbidden, Unauthenticated
from fairgate.guessing import FailedKeys

# Longer ones are nobody's key; refusing them first bounds the work that a stranger can cause.
_LONGEST_KEY = 512

ANYBODY = "anonymous"
"""Key of requests without one."""

_is_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch
_is_plain_id = re.compile(rb"[A-Za-z0-9._@:+-]{1,64}").fullmatch


class Principal(Struct, frozen=True, gc=False):
    """Who sends a request and what it may use. Shared between requests: never changed.

    :meth:`Identity.identify` leaves ``user`` open where only the body can name it, and
    ``interaction`` always: :func:`complete` fills in both. An app that authenticates by itself
    makes one from what it knows, or asks :meth:`Identity.principal` for a configured tenant.
    """

    tenant: str
    """1 to 64 letters, digits, ``.``, ``_`` and ``-``."""
    app: str = "default"
    """One of the configured apps."""
    weight: float = 1.0
    limits: Limits = Limits()
    user_limits: Limits = Limits()
    app_limits: RateLimits = RateLimits()
    key_id: str = ANYBODY
    """First 12 hex digits of the key's hash: fit for logs; the user where nobody names one."""
    key_name: str = ""
    user_weights: Mapping[str, float] = {}
    """By user id, of the whole tenant."""
    user: str | None = None
    """Bounded and log-safe; unique within the tenant."""
    user_weight: float = 1.0
    interaction_header: bytes | None = None
    """Client text; never to be stored or logged."""
    interaction: str | None = None
    """Digest over tenant, user and the client's id; ``None``: the request stands alone."""
    cache_salt: str = ""
    """Requests with the same one share what engines keep of prompts; empty: as configured for the
    tenant."""


class _Caller(Struct, frozen=True):
    """What one key stands for."""

    principal: Principal
    """With the default app of the key."""
    apps: Mapping[bytes, RateLimits]
    """Those the key may name, and their limits."""


Authenticate = Callable[[Scope], Principal | Awaitable[Principal]]
"""Tells who sends a request; raises ``Unauthenticated`` or ``Forbidden`` to refuse it."""


async def who_sends(
    scope: Scope,
    identity: Identity,
    authenticate: Authenticate | None = None,
    *,
    failed: FailedKeys,
) -> Principal:
    """By the app's own authentication where it has one, else by API key.

    Raises ``Unauthenticated``, ``Throttled`` where ``failed`` had too many unknown keys from the
    client's address, ``Forbidden``, and what :meth:`Identity.adopt` raises.
    """
    if authenticate is None:
        return by_key(scope, identity, failed)
    found = authenticate(scope)
    return identity.adopt(await found if isawaitable(found) else found, scope["headers"])


def by_key(scope: Scope, identity: Identity, failed: FailedKeys) -> Principal:
    """The principal of the API key in ``scope``. Raises as :func:`who_sends`."""
    try:
        return identity.identify(scope["headers"])
    except Unauthenticated:
        if _sent_key(dict(scope["headers"])):
            failed.count(scope)
        raise


class Identity:
    """Knows every key of one configuration."""

    def __init__(self, config: Config) -> None:
        self._callers: dict[bytes, _Caller] = {}
        self._anonymous: _Caller | None = None
        self._config = config
        self._weights: dict[str, Mapping[str, float]] = {}
        for name in config.tenants:
            self._add(name)

    def take_up(self, config: Config, tenants: Collection[str]) -> None:
        """Know ``config`` from now on, which differs in these ``tenants`` only."""
        for name in tenants:
            self._weights.pop(name, None)
            if (old := self._config.tenants.get(name)) is not None:
                for key in old.keys:
                    self._callers.pop(bytes.fromhex(key.sha256), None)
            if name == config.anonymous:
                self._anonymous = None
        self._config = config
        for name in tenants:
            if name in config.tenants:
                self._add(name)

    def _add(self, name: str) -> None:
        config = self._config
        tenant = config.tenants[name]
        weights = {user_id(_utf8(user)): w for user, w in tenant.user_weights.items()}
        self._weights[name] = weights
        for key in tenant.keys:
            self._callers[bytes.fromhex(key.sha256)] = _caller(config, name, weights, key)
        if name == config.anonymous:
            self._anonymous = _caller(config, name, weights, None)

    def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """The principal that raw ASGI ``headers`` (lower-case names) tell of.

        Raises ``Unauthenticated`` for a missing or unknown key, unless the configuration names
        an anonymous tenant, and ``Forbidden`` for an app that the key may not name.
        """
        fields = dict(headers)
        caller = self._find(fields) or self._anonymous
        if caller is None:
            raise Unauthenticated(_how_to_authenticate(_sent_key(fields)))
        return _with_headers(caller, fields)

    def principal(self, tenant: str, *, user: str | None = None, app: str = "") -> Principal:
        """What the configuration says of ``tenant``, for apps that authenticate by themselves.

        ``user`` is any text that names the end user; ``app`` one of those the tenant may name,
        by default its first. Raises ``Forbidden`` for a tenant or an app that is not configured.
        """
        if tenant not in self._config.tenants:
            raise Forbidden(f"no tenant is named {tenant[:64]!r}", code="tenant_unknown")
        caller = _caller(self._config, tenant, self._weights[tenant], None)
        principal = caller.principal
        if app:
            principal = _with_app(principal, caller.apps, _utf8(app))
        return _with_user(principal, user_id(_utf8(user))) if user else principal

    def adopt(self, principal: Principal, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """``principal`` as the app's own authentication gave it, with what the headers add.

        Those are the interaction, and the user where it is open. Raises ``ValueError`` for a
        tenant's name that is malformed, a weight that is not over 0, or an app that is not
        configured.
        """
        if not _is_name(principal.tenant):
            raise ValueError(f"authenticate: malformed tenant {principal.tenant!r}")
        for weight in (principal.weight, principal.user_weight):
            if not 0 < weight < math.inf:
                raise ValueError(f"authenticate: expected a weight > 0, got {weight!r}")
        if principal.app not in self._config.apps:
            known = ", ".join(self._config.apps)
            raise ValueError(f"authenticate: no app is named {principal.app!r}, only {known}")
        if principal.user is not None:
            principal = replace(principal, user=user_id(_utf8(principal.user)))
        if not principal.cache_salt:
            salt = _cache_salt(self._config.tenants.get(principal.tenant), principal.tenant)
            principal = replace(principal, cache_salt=salt)
        return _with_ids(principal, dict(headers))

    def _find(self, fields: Mapping[bytes, bytes]) -> _Caller | None:
        # Not compared in constant time, and safe all the same: what the lookup compares is the
        # SHA-256 of the key. Timing could at most tell bits of a stored digest, and to use them one
        # would need keys whose digest begins with chosen bits; each bit doubles that search, and
        # its end is a preimage of SHA-256. Keys of `fairgate keys new` are 256 random bits, which
        # no dictionary holds.
        key = _sent_key(fields)
        if not key or len(key) > _LONGEST_KEY:
            return None
        return self._callers.get(sha256(key).digest())


def complete(
    principal: Principal, body_user: str | None, previous_response_id: str | None
) -> Principal:
    """``principal`` with its user and interaction decided, now that the body is known.

    ``body_user`` is the body's ``safety_identifier`` or ``user``; it counts only if neither key nor
    header named a user. ``previous_response_id`` counts only if no header named an interaction.
    Cheap, and to be called for every request: without a user it falls back to the key.
    """
    user = principal.user
    if user is None:
        named = _utf8(body_user).strip() if body_user else b""
        user = user_id(named) if named else principal.key_id
        principal = _with_user(principal, user)
    interaction = principal.interaction_header
    if interaction is None and previous_response_id:
        interaction = _utf8(previous_response_id)
    if interaction is None:
        return principal
    return replace(principal, interaction=interaction_id(principal.tenant, user, interaction))


def user_id(text: bytes) -> str:
    """``text`` as a user id: itself where it is short and plain, else its digest.

    Bounded and free of control characters, whatever a client sends: fit for logs and Redis keys.
    """
    if _is_plain_id(text):
        return text.decode("ascii")
    return blake2b(text, digest_size=16).hexdigest()


def interaction_id(tenant: str, user: str, text: bytes) -> str:
    """The id of an interaction, bound to its user: naming the id of another's gains nothing."""
    return blake2b(b"%b\0%b\0%b" % (_utf8(tenant), _utf8(user), text), digest_size=12).hexdigest()


def _sent_key(fields: Mapping[bytes, bytes]) -> bytes:
    authorization = fields.get(b"authorization", b"")
    if authorization[:7].lower() == b"bearer ":
        return authorization[7:].strip()
    return fields.get(b"x-api-key", b"").strip()


def _how_to_authenticate(key: bytes) -> str:
    if key:
        return "Unknown API key."
    return "No API key: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'."


def _with_headers(caller: _Caller, fields: Mapping[bytes, bytes]) -> Principal:
    principal = caller.principal
    if app := fields.get(b"x-fairgate-app"):
        principal = _with_app(principal, caller.apps, app)
    return _with_ids(principal, fields)


def _with_ids(principal: Principal, fields: Mapping[bytes, bytes]) -> Principal:
    get = fields.get
    if principal.user is None and (user := get(b"x-fairgate-user", b"").strip()):
        principal = _with_user(principal, user_id(user))
    # Agents that know nothing of fairgate send ids of their sessions, which serve as well.
    interaction = (
        get(b"x-fairgate-interaction") or get(b"x-claude-code-session-id") or get(b"x-session-id")
    )
    return replace(principal, interaction_header=interaction) if interaction else principal


def _with_app(principal: Principal, apps: Mapping[bytes, RateLimits], app: bytes) -> Principal:
    limits = apps.get(app)
    if limits is None:
        shown = app[:64].decode("ascii", "backslashreplace")
        refusal = Forbidden(f"This API key may not use the app {shown!r}.", code="app_not_allowed")
        refusal.principal = principal
        raise refusal
    return replace(principal, app=app.decode("ascii"), app_limits=limits)


def _with_user(principal: Principal, user: str) -> Principal:
    return replace(principal, user=user, user_weight=principal.user_weights.get(user, 1.0))


def _caller(config: Config, name: str, weights: Mapping[str, float], key: Key | None) -> _Caller:
    """What ``key`` of the tenant ``name`` stands for; without a key, what anybody does."""
    tenant = config.tenants[name]
    apps = apps_of(config, name, key)
    principal = Principal(
        tenant=name,
        app=apps[0],
        weight=tenant.weight,
        limits=tenant.limits,
        user_limits=tenant.user_limits,
        app_limits=config.apps[apps[0]].limits,
        key_id=key.sha256[:12] if key else ANYBODY,
        key_name=key.name if key else "",
        user_weights=weights,
        cache_salt=_cache_salt(tenant, name),
    )
    if key and key.user:
        principal = _with_user(principal, user_id(_utf8(key.user)))
    return _Caller(principal, {_utf8(app): config.apps[app].limits for app in apps})


def _cache_salt(tenant: Tenant | None, name: str) -> str:
    group = tenant.cache_group if tenant is not None else None
    return _salt("tenant", name) if group is None else _salt("group", group)


@lru_cache(maxsize=4096)
def _salt(kind: str, name: str) -> str:
    """The same on every replica, and of letters that vLLM takes."""
    return blake2b(b"%b\0%b" % (_utf8(kind), _utf8(name)), digest_size=16).hexdigest()


def revoked_keys(old: Config, new: Config, tenants: Iterable[str]) -> frozenset[str]:
    """Ids of keys that these ``tenants`` had in ``old`` and have not in ``new``."""
    gone: set[str] = set()
    for name in tenants:
        had, has = old.tenants.get(name), new.tenants.get(name)
        if had is not None and had is not has:
            kept = {key.sha256 for key in has.keys} if has is not None else set()
            gone.update(key.sha256[:12] for key in had.keys if key.sha256 not in kept)
    return frozenset(gone)


def apps_of(config: Config, tenant: str, key: Key | None) -> tuple[str, ...]:
    """Apps that ``key`` of the tenant, or who comes without a key, may name; the default first."""
    return (key.apps if key else None) or config.tenants[tenant].apps or tuple(config.apps)


def _utf8(text: str) -> bytes:
    """The bytes a header would carry for ``text``; JSON may hold halves of surrogate pairs."""
    return text.encode("utf-8", "surrogatepass")
