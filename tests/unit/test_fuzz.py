"""Whatever bytes come, of a client or an engine: a value or a refusal, and never anything else."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairgate import codec, headers
from fairgate.addresses import Addresses
from fairgate.codec import ROUTES, decode, rewrite
from fairgate.config import Config, Key, Pool, Tenant
from fairgate.config.sampling import BestOf
from fairgate.config.server import Server
from fairgate.engines.http_connection import Connection, HttpAnswer
from fairgate.errors import EngineError, Forbidden, Refusal, Unauthenticated
from fairgate.identity import Identity, complete
from fairgate.me.app import wants_html, with_basic
from fairgate.routing.knob import asked_quality
from fairgate.sampling import read_wishes
from fairgate.scanners import (
    HEAD_BYTES,
    LINE_BYTES,
    TAIL_BYTES,
    JsonScanner,
    UsageScanner,
    scanner_for,
)
from fairgate.usage import MOST_TOKENS

READ = ("model", "user", "stream", "n", "max_tokens", "max_completion_tokens")
SCALARS = st.sampled_from(
    (
        "null", "true", "0", "1", "7", "128", "129", "-1", "1e3", "1.0", "NaN", "-Infinity",
        "9" * 30, "9" * 5000, '"tiny"', '"auto:0.5"', '"\\ud800"', '"\\u0000"', "[]", "{}",
        '{"a":1}', '"\x00"', "01", "+1", ".5", "'a'", '"a', "[1,]", "[" * 3000,
        '{"include_usage":true}',
    )
)  # fmt: skip
KEYS = st.sampled_from((*READ, "messages", "prompt", "input", "tools", "stream_options", "best_of",
                        "priority", "cache_salt", "m\\u006fdel", "\\u006e", "other"))  # fmt: skip
PATHS = st.sampled_from(sorted(ROUTES))


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    """Nearly JSON objects, keys often twice, now and then with a few bytes broken."""
    pairs = draw(st.lists(st.tuples(KEYS, SCALARS), max_size=8))
    body = bytearray("{" + ",".join(f'"{key}": {value}' for key, value in pairs) + "}", "utf-8")
    for at, byte in draw(st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=2)):
        body[at % len(body)] = byte
    return bytes(body)


@given(objects(), PATHS)
def test_what_is_read_of_a_body_is_what_an_engine_reads(body: bytes, path: str) -> None:
    try:
        call = decode(path, body, max_choices=128)
        sent = rewrite(body, call, model="lane", include_usage=True, priority=3, cache_salt="ours")
    except Refusal as refusal:
        assert refusal.status in (400, 404)  # noqa: PT017
        assert len(refusal.message) < 500  # noqa: PT017
        return
    pairs = json.loads(sent, object_pairs_hook=list, parse_int=integer)  # as vLLM reads it
    names = [name for name, _ in pairs]
    assert len(set(names)) == len(names)  # nothing is left to two readings
    engine = json.loads(sent, parse_int=integer)
    client = json.loads(body, parse_int=integer)
    assert (engine["model"], engine["priority"], engine["cache_salt"]) == ("lane", 3, "ours")
    ours = {"model", "priority", "cache_salt", "stream_options"}
    assert {k: v for k, v in engine.items() if k not in ours} == {
        k: v for k, v in client.items() if k not in {*ours, *codec.OURS}
    }
    assert (call.model, call.user) == (client.get("model"), client.get("user"))
    if call.route in ("chat", "completions"):
        asked = [engine.get("max_tokens"), engine.get("max_completion_tokens")]
        assert call.max_output_tokens == max((cap for cap in asked if cap), default=None)
        assert call.n == max(engine.get("n") or 1, engine.get("best_of") or 1)
        assert call.stream is (engine.get("stream") is True)


def integer(digits: str) -> int | str:
    """Python's ``int`` takes no more of them."""
    return int(digits) if len(digits) < 4300 else digits


def config() -> Config:
    keys = (Key(sha256="ab" * 32), Key(sha256="cd" * 32, apps=("default",)))
    tenants = {"acme": Tenant(keys=keys), "globex": Tenant()}
    return Config(pools={"main": Pool(lanes={})}, tenants=tenants, anonymous="globex")


IDENTITY = Identity(config())
STRICT = Identity(Config(pools={"main": Pool(lanes={})}, tenants={"acme": Tenant()}))
ADDRESSES = Addresses(Server(trusted_proxies=("10.0.0.0/8", "fd00::/8")))
NAMES = st.sampled_from(
    (b"authorization", b"x-api-key", b"x-fairgate-user", b"x-fairgate-app",
     b"x-fairgate-interaction", b"x-fairgate-quality", b"x-fairgate-samples",
     b"x-fairgate-accept-delay", b"accept", b"x-request-id", b"x-forwarded-for",
     b"content-encoding", b"x-session-id")
)  # fmt: skip
VALUES = st.binary(max_size=80) | st.sampled_from(
    (b"Bearer x", b"bearer  ", b"Basic OmE=", b"Basic ====", b"default", b"nan", b"inf", b"1_0",
     b"-0", b"application/problem+json;q=0.0", b"text/html;q=9,*/*;q=", b"10.0.0.1, ::1%x",
     b"9" * 5000,
     b"\xf0\x9d\x9f\x99", "²".encode("latin-1"), b"gzip", b",,,", b"fd00::1,10.0.0.9,1.2.3.4")
)  # fmt: skip


@given(
    st.lists(st.tuples(NAMES, VALUES), max_size=8), st.sampled_from(("10.0.0.1", "::1", "x", ""))
)
def test_any_headers_name_somebody_or_are_refused(
    fields: list[tuple[bytes, bytes]], peer: str
) -> None:
    sent = dict(fields)
    with pytest.raises(Unauthenticated):
        STRICT.identify(fields)
    try:
        principal = complete(IDENTITY.identify(fields), None, None)
        asked_quality(None, fields)
        read_wishes(fields, BestOf())
        codec.check_encoding(sent.get(b"content-encoding"))
    except Refusal as refusal:
        assert refusal.status in (400, 403, 415)  # noqa: PT017
        assert not isinstance(refusal, Forbidden) or refusal.principal is not None  # noqa: PT017
        answer = headers.error_response(refusal, request_id="r", rng=cast("Any", None))
        assert b"\n" not in b"".join(value for _, value in answer.headers)
    else:
        assert principal.tenant == "globex"
        assert re.fullmatch(r"[A-Za-z0-9._@:+-]{1,64}", principal.user or "")
        assert re.fullmatch(r"[0-9a-f]{24}", principal.interaction or "0" * 24)
    accept = sent.get(b"accept", b"")
    assert {wants_html(accept), headers.wants_problem(accept)} <= {True, False}
    assert with_basic(sent).keys() >= sent.keys()
    assert re.fullmatch(r"[\x21-\x7e]{1,128}", headers.request_id(sent.get(b"x-request-id")))
    scope = {"type": "http", "client": (peer, 1), "headers": fields}
    assert len(ADDRESSES.of(scope)) < 50
    assert ADDRESSES.may_scrape(scope) in (True, False)


EVENTS = st.sampled_from(
    (
        b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', b"data: [DONE]\n\n", b"data: ",
        b"\n\n",
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n', b"\r\n",
        b"\r",
        b'"usage":{"prompt_tokens":', b'"usage":' + b"{" * 50, b'{"usage":{"prompt_tokens":1}}',
        b'"usage":{"input_tokens":9007199254740993000}}\n', b'\\"', b'"', b"}", b"]}", b"\xff\x00",
        b'{"response":{"id":"resp_1","usage":{"input_tokens":1,"output_tokens":2}}}\n',
        b"x" * 30_000,
    )
)  # fmt: skip


@given(
    st.lists(EVENTS | st.binary(max_size=40), max_size=30),
    st.sampled_from(("chat", "completions", "responses", "embeddings")),
    st.sampled_from((b"text/event-stream", b"application/json", b"", b"\xff")),
    st.booleans(),
)
def test_any_answer_passes_and_tells_a_use_that_can_be(
    parts: list[bytes], route: Any, kind: bytes, hide: bool
) -> None:
    scanner = scanner_for(route, kind, hide_usage=hide)
    passed = b""
    for part in parts:
        passed += scanner.feed(part)
        assert held_bytes(scanner) <= 2 * LINE_BYTES + 60_000
    passed += scanner.finish()
    usage = scanner.usage
    assert 0 <= (usage.prompt_tokens or 0) <= MOST_TOKENS
    assert 0 <= usage.cached_tokens <= (usage.prompt_tokens or 0)
    assert 0 <= usage.completion_tokens <= MOST_TOKENS
    whole = b"".join(parts)
    cut = b"ended inside an event" in passed
    assert passed == whole or (hide and len(passed) < len(whole)) or cut


def held_bytes(scanner: UsageScanner) -> int:
    if isinstance(scanner, JsonScanner):
        return len(scanner._kept) - 2 * (HEAD_BYTES + TAIL_BYTES)
    return sum(map(len, getattr(scanner, "_partial", []))) + len(getattr(scanner, "_held", b""))


class Pipe(asyncio.Transport):
    """The connection's other end: takes everything."""

    closing = False
    paused = False

    def write(self, data: Any) -> None:
        assert not self.closing

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


ANSWERS = st.sampled_from(
    (
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.0 200\r\n",
        b"HTTP/1.1 101 X\r\nupgrade: h2c\r\n", b"HTTP/1.1 999 \r\n", b"content-length: 5\r\n",
        b"content-length: -1\r\n",
        b"transfer-encoding: chunked\r\n", b"transfer-encoding: gzip\r\n", b"connection: close\r\n",
        b"\r\n", b"\r\n\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"fffffffffffffffff\r\n", b"hello",
        b"\n",
        b"connection: upgrade\r\n", b"a: " + b"b" * 70_000, b"HTTP/1.1 204 No Content\r\n\r\n",
        b"\x00",
        b"x" * 300_000,
    )
)  # fmt: skip


@given(st.lists(ANSWERS | st.binary(max_size=30), max_size=14), st.integers(1, 9), st.booleans())
def test_any_bytes_of_an_engine_are_an_answer_or_its_failure(
    parts: list[bytes], cut: int, whole: bool
) -> None:
    stream = b"".join(parts)
    step = max(len(stream) // cut, 1)

    async def run() -> None:
        freed: list[Connection] = []
        lost: list[Connection] = []
        pipe = Pipe()
        connection = Connection(freed.append, lost.append, max_answer_bytes=1 << 20)
        connection.connection_made(pipe)
        answer = connection.ask(b"POST / HTTP/1.1\r\n\r\n", b"")
        reader = asyncio.create_task(read(answer))
        for start in range(0, len(stream), step):
            if not pipe.closing:
                connection.data_received(stream[start : start + step])
            await asyncio.sleep(0)
        if not pipe.closing:
            connection.eof_received()
        connection.connection_lost(None)
        assert await reader in ("answer", "failure")
        assert lost == [connection]
        assert len(freed) <= 1

    async def read(answer: HttpAnswer) -> str:
        try:
            await answer.begun()
            assert 200 <= answer.status <= 999
            if whole:
                await answer.read()
            else:
                while await answer.part():
                    pass
        except EngineError:
            return "failure"
        finally:
            answer.close()
        return "answer"

    asyncio.run(asyncio.wait_for(run(), 20))
