"""Who a request is from: keys, apps, users, interactions."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairgate.config import App, Config, Key, Limits, RateLimits, Tenant
from fairgate.errors import Forbidden, Unauthenticated
from fairgate.identity import Identity, Principal, complete, interaction_id, user_id


def hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()


CONFIG = Config(
    pools={},
    apps={
        "chat": App(limits=RateLimits(rpm=5)),
        "code": App(limits=RateLimits(tpm=7)),
        "agent": App(),
    },
    tenants={
        "acme": Tenant(
            weight=2.0,
            apps=("code", "agent"),
            limits=Limits(rpm=100),
            user_limits=Limits(concurrency=3),
            user_weights={"alice": 4.0, "jürgen": 0.5},
            keys=(
                Key(sha256=hashed("open"), name="backend"),
                Key(sha256=hashed("pinned"), user="batch job", apps=("agent",)),
                Key(sha256=hashed("heavy"), user="alice"),
            ),
        ),
        "globex": Tenant(keys=(Key(sha256=hashed("other")),)),
        "guests": Tenant(weight=0.5),
    },
)


def who(
    key: str | None = "open",
    *,
    body_user: str | None = None,
    previous: str | None = None,
    config: Config = CONFIG,
    **headers: str | bytes,
) -> Principal:
    """The completed principal of a request; ``x_fairgate_app="code"`` sends that header."""
    raw = [(b"host", b"localhost")]
    if key is not None:
        raw.append((b"authorization", b"Bearer " + key.encode()))
    for name, value in headers.items():
        text = value if isinstance(value, bytes) else value.encode()
        raw.append((name.replace("_", "-").encode(), text))
    return complete(Identity(config).identify(raw), body_user, previous)


def test_principal_carries_what_the_configuration_says() -> None:
    principal = who(x_fairgate_user="alice")
    assert (principal.tenant, principal.weight) == ("acme", 2.0)
    assert (principal.user, principal.user_weight) == ("alice", 4.0)
    assert (principal.app, principal.app_limits) == ("code", RateLimits(tpm=7))
    assert (principal.limits, principal.user_limits) == (Limits(rpm=100), Limits(concurrency=3))
    assert (principal.key_name, principal.key_id) == ("backend", hashed("open")[:12])


class TestKey:
    @pytest.mark.parametrize("value", ["Bearer open", "bearer open", "BEARER  open "])
    def test_authorization(self, value: str) -> None:
        assert who(None, authorization=value).tenant == "acme"

    def test_x_api_key(self) -> None:
        assert who(None, x_api_key="other").tenant == "globex"
        assert who(None, authorization="Basic xyz", x_api_key="other").tenant == "globex"

    @pytest.mark.parametrize("value", ["", "Bearer ", "Basic open", "open"])
    def test_missing(self, value: str) -> None:
        with pytest.raises(Unauthenticated, match="No API key: send"):
            who(None, authorization=value)

    @pytest.mark.parametrize("key", ["nobody", "OPEN", "open\x00", hashed("open"), "x" * 100_000])
    def test_unknown(self, key: str) -> None:
        with pytest.raises(Unauthenticated) as caught:
            who(key)
        assert caught.value.message == "Unknown API key."

    def test_header_bytes_beyond_ascii_are_just_unknown(self) -> None:
        with pytest.raises(Unauthenticated):
            who(None, authorization=b"Bearer \xff\x01")

    def test_anonymous_tenant_takes_everybody_else(self) -> None:
        config = Config(pools={}, apps=CONFIG.apps, tenants=CONFIG.tenants, anonymous="guests")
        for key in (None, "unknown"):
            principal = who(key, config=config)
            assert (principal.tenant, principal.weight) == ("guests", 0.5)
            assert (principal.user, principal.key_id) == ("anonymous", "anonymous")
            assert principal.app == "chat"
        assert who("open", config=config).tenant == "acme"


class TestApp:
    def test_named(self) -> None:
        assert who(x_fairgate_app="agent").app == "agent"
        assert who(x_fairgate_app="agent").app_limits == RateLimits()

    def test_default_is_the_first_that_the_key_may_name(self) -> None:
        assert who("open").app == "code"
        assert who("pinned").app == "agent"
        assert who("other").app == "chat"

    @pytest.mark.parametrize(("key", "app"), [("pinned", "code"), ("open", "chat"), ("open", "?")])
    def test_refused(self, key: str, app: str) -> None:
        with pytest.raises(Forbidden) as caught:
            who(key, x_fairgate_app=app)
        assert caught.value.message == f"This API key may not use the app '{app}'."
        assert caught.value.code == "app_not_allowed"

    def test_refusal_is_bounded_and_printable(self) -> None:
        with pytest.raises(Forbidden) as caught:
            who(x_fairgate_app=b"\xff\x00\r\n\x1b" + b"a" * 10_000)
        assert caught.value.message.isprintable()
        assert caught.value.message.isascii()
        assert len(caught.value.message) < 200


class TestUser:
    def test_order_of_sources(self) -> None:
        assert who(x_fairgate_user="h", body_user="b").user == "h"
        assert who(x_fairgate_user=" ", body_user="b").user == "b"
        assert who(body_user="").user == hashed("open")[:12]
        assert who().user == hashed("open")[:12]

    def test_pinned_user_cannot_be_changed(self) -> None:
        assert who("heavy", x_fairgate_user="eve", body_user="eve").user == "alice"
        assert who("heavy").user_weight == 4.0

    def test_is_open_until_the_body_is_known(self) -> None:
        headers = [(b"authorization", b"Bearer open")]
        assert Identity(CONFIG).identify(headers).user is None

    def test_header_and_body_agree_beyond_ascii(self) -> None:
        by_header = who(x_fairgate_user="jürgen")
        assert by_header.user == who(body_user="jürgen").user
        assert by_header.user_weight == 0.5
        assert by_header.user != who(body_user="jurgen").user

    def test_pinned_text_is_made_safe_too(self) -> None:
        assert who("pinned").user == user_id(b"batch job") != "batch job"

    @pytest.mark.parametrize("name", ["a", "Ann.B_c@x.org:7+1-2", "a" * 64])
    def test_plain_ids_stay(self, name: str) -> None:
        assert who(body_user=name).user == name

    @given(st.text(min_size=1) | st.sampled_from(["\ud800", "a" * 65, "a\nb", "a/b", "\x00"]))
    def test_any_text_becomes_a_safe_id(self, name: str) -> None:
        user = complete(Identity(CONFIG).identify([(b"x-api-key", b"open")]), name, None).user
        assert user is not None
        assert re.fullmatch(r"[A-Za-z0-9._@:+-]{1,64}", user)

    @given(st.binary())
    def test_any_header_bytes_become_a_safe_id(self, name: bytes) -> None:
        user = who(x_fairgate_user=name).user
        assert user is not None
        assert re.fullmatch(r"[A-Za-z0-9._@:+-]{1,64}", user)


class TestInteraction:
    def test_none(self) -> None:
        assert who().interaction is None
        assert who("heavy", x_session_id="").interaction is None

    def test_order_of_sources(self) -> None:
        expected = {
            name: interaction_id("acme", "bo", name.encode()) for name in ("f", "c", "s", "p")
        }
        headers: dict[str, Any] = {"x_fairgate_interaction": "f", "x_claude_code_session_id": "c"}
        headers["x_session_id"] = "s"
        for name in ("f", "c", "s"):
            assert who(body_user="bo", previous="p", **headers).interaction == expected[name]
            headers.pop(next(iter(headers)))
        assert who(body_user="bo", previous="p").interaction == expected["p"]
        assert who("heavy", previous="p").interaction == interaction_id("acme", "alice", b"p")

    def test_belongs_to_its_user_and_tenant(self) -> None:
        ids = {
            who(body_user="bo", x_session_id="run").interaction,
            who(body_user="al", x_session_id="run").interaction,
            who("other", body_user="bo", x_session_id="run").interaction,
        }
        assert len(ids) == 3
        again = who(x_fairgate_user="bo", x_session_id="run").interaction
        assert again in ids, "however the user is named"

    def test_is_bounded_and_plain(self) -> None:
        for text in (b"x" * 100_000, b"\xff\x00\r\n", b"a b"):
            interaction = who(x_session_id=text).interaction
            assert interaction is not None
            assert re.fullmatch(r"[0-9a-f]{24}", interaction)
        assert who(previous="\ud800").interaction is not None


def test_nothing_of_a_request_stays_for_the_next() -> None:
    identity = Identity(CONFIG)
    bare = [(b"x-api-key", b"open")]
    before = identity.identify(bare)
    complete(
        identity.identify([*bare, (b"x-fairgate-app", b"agent"), (b"x-session-id", b"s")]), "u", "p"
    )
    assert identity.identify(bare) == before
