"""Hostile HTTP: smuggling, floods of headers and bodies, odd paths; most of it without a key."""

from __future__ import annotations

import gzip
import json
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from support.gateway import (
    Gateway,
    SimulatedEngine,
    bearer,
    chat,
    config,
    engine,
    gateway,
    lane,
    tenant,
)
from support.raw import (
    CHAT,
    answers,
    ask,
    connection,
    drain,
    exchange,
    read_one,
    request,
    rss_bytes,
)

MAX_BODY = 1_000_000
MOST_GROWTH = 24_000_000
"""Bytes that the gateway may grow by while it refuses a flood."""

BODY = json.dumps(chat(max_tokens=1)).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED = request("GET", "/healthz", tenant=None)
TE = b"transfer-encoding: chunked"


@dataclass(frozen=True)
class Site:
    gate: Gateway
    engine: SimulatedEngine


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("hostile-http")
    with engine(folder, "--profile", "instant") as fast:
        settings = config(
            {"tiny": lane(fast.url)},
            tenants={"acme": tenant("acme"), "globex": tenant("globex")},
            server={"max_body_bytes": MAX_BODY},
        )
        with gateway(folder, settings) as gate:
            yield Site(gate, fast)


def length(size: int) -> bytes:
    return b"content-length: %d" % size


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        ((length(len(BODY)), TE), b"0\r\n\r\n"),
        ((TE, length(4)), CHUNKED),
        ((length(len(BODY)), length(5)), BODY),
        ((length(len(BODY)), length(len(BODY))), BODY),
        ((b"content-length: 5, 5",), BODY),
        ((b"content-length: +%d" % len(BODY),), BODY),
        ((b"content-length: -1",), BODY),
        ((b"content-length: 0x10",), BODY),
        ((b"content-length: 99999999999999999999999",), BODY),
        ((b"content-length : %d" % len(BODY),), BODY),
        ((b"transfer-encoding: xchunked",), CHUNKED),
        ((b"transfer-encoding: chunked, identity",), CHUNKED),
        ((b"transfer-encoding: \x0bchunked",), CHUNKED),
        ((b"transfer-encoding:\r\n chunked",), CHUNKED),
        ((TE,), b"5zz\r\nhello\r\n0\r\n\r\n"),
        ((TE,), b"-5\r\nhello\r\n0\r\n\r\n"),
        ((TE,), b"ffffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        ((TE,), b"5\nhello\n0\n\n"),
        ((length(len(BODY)), b"x-a: b\rx-b: c"), BODY),
        ((length(len(BODY)), b"x-a: b\x00"), BODY),
        ((length(len(BODY)), b"no colon"), BODY),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_two_servers_may_frame_in_two_ways_is_refused(site, lines, body):
    told = exchange(site.gate.port, request(lines=lines, body=body) + SMUGGLED)
    assert [answer.status for answer in told] == [400]  # and what follows is never read
    assert (told[0].header("connection") or "").lower() == "close"


def test_bare_line_feeds_are_refused(site):
    data = request(lines=(length(len(BODY)),)).replace(b"\r\n", b"\n") + BODY
    assert [answer.status for answer in exchange(site.gate.port, data)] == [400]


def test_the_body_of_a_get_is_no_request(site):
    hidden = request("GET", "/metrics", tenant=None)
    with connection(site.gate.port) as it:
        it.sendall(request("GET", "/v1/models", body=hidden))
        assert read_one(it).status == 200
        it.sendall(request("GET", "/healthz", lines=(b"connection: close",)))
        (last,) = answers(drain(it))
    assert last.body == b"ok\n"  # one answer for each request, in order


def test_trailers_are_no_headers(site):
    """Who says so at the end of a body is still nobody."""
    forged = b"authorization: %b\r\n" % bearer("globex")["authorization"].encode()
    trailers = CHUNKED.removesuffix(b"\r\n") + forged + b"\r\n"
    assert ask(site.gate.port, request(lines=(TE,), body=trailers, tenant=None)).status == 401
    quality = CHUNKED.removesuffix(b"\r\n") + b"x-fairgate-quality: nonsense\r\n\r\n"
    auto = quality.replace(b'"tiny"', b'"auto"')
    assert ask(site.gate.port, request(lines=(TE,), body=auto)).status == 200


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"GET /", b"a" * 65_536),
        (b"GET / HTTP/1.1\r\n", b"a" * 65_536),
        (b"GET / HTTP/1.1\r\nx-a: ", b"a" * 65_536),
        (b"GET / HTTP/1.1\r\n", b"x-a: b\r\n" * 8192),
        (request(lines=(TE,), body=b"0\r\n"), b"x-a: b\r\n" * 8192),
        (request(lines=(TE,), body=b"0\r\nx-a: "), b"a" * 65_536),
        (request(lines=(TE,), body=b"1;"), b"a" * 65_536),
    ],
    ids=["url", "name", "value", "many", "trailers", "trailer", "chunk-extension"],
)
def test_a_head_or_trailer_without_end_is_refused_early(site, begin, more):
    before = rss_bytes(site.gate.process.pid)
    taken = 0
    with connection(site.gate.port) as it:
        with suppress(ConnectionError):
            it.sendall(begin)
            while taken < 200 * len(more):
                it.sendall(more)
                taken += len(more)
        told = drain(it)
    assert taken < 200 * len(more)
    assert told == b"" or answers(told)[0].status == 431  # or the reset was quicker than the answer
    assert rss_bytes(site.gate.process.pid) - before < MOST_GROWTH


def test_many_requests_on_one_connection_are_no_flood(site):
    """Their heads do not add up."""
    padding = (b"x-padding: " + b"p" * 2000,)
    with connection(site.gate.port) as it:
        for _ in range(60):
            it.sendall(request("GET", "/healthz", lines=padding))
            assert read_one(it).status == 200


def test_a_body_that_comes_after_its_answer_does_not_go_on_for_ever(site):
    """Nobody asked for it: the answer was 401, before the body was read."""
    taken = 0
    with connection(site.gate.port) as it:
        it.sendall(request(lines=(length(100_000_000),), tenant=None))
        assert read_one(it).status == 401
        with suppress(ConnectionError):
            while taken < 100_000_000:
                it.sendall(b" " * 65_536)
                taken += 65_536
        drain(it)
    assert taken < 20_000_000


def test_100_mb_declared_are_refused_without_reading(site):
    huge = 100_000_000
    with connection(site.gate.port) as it:
        it.sendall(request(lines=(length(huge),)))
        told = read_one(it)
    assert (told.status, told.error["code"]) == (413, "body_too_large")


def test_100_mb_in_chunks_are_refused_early(site):
    before = rss_bytes(site.gate.process.pid)
    block = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    taken = 0
    with connection(site.gate.port) as it:
        it.sendall(request(lines=(TE,)))
        with suppress(ConnectionError):
            while taken < 100_000_000:
                it.sendall(block)
                taken += len(block)
        told = drain(it)
    assert taken < 20_000_000  # the limit, and what sockets hold
    assert told == b"" or answers(told)[0].status == 413
    assert rss_bytes(site.gate.process.pid) - before < MOST_GROWTH


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "GZIP"])
def test_a_compressed_body_is_never_unpacked(site, encoding):
    bomb = gzip.compress(b"[" * 50_000_000) if "z" in encoding else zlib.compress(b"[" * 1000)
    before = rss_bytes(site.gate.process.pid)
    told = ask(site.gate.port, request(headers={"content-encoding": encoding}, body=bomb[:60_000]))
    assert (told.status, told.error["code"]) == (415, "unsupported_encoding")
    assert told.header("accept-encoding") == "identity"
    assert rss_bytes(site.gate.process.pid) - before < MOST_GROWTH


def test_a_body_that_says_it_is_not_compressed_is_served(site):
    plain = request(headers={"content-encoding": "identity"}, body=BODY)
    assert ask(site.gate.port, plain).status == 200


ENGINE_ADMIN = (
    "/abort_requests", "/classify", "/collective_rpc", "/detokenize", "/fault_tolerance/apply",
    "/get_world_size", "/health", "/inference/v1/abort_requests", "/inference/v1/generate",
    "/init_weight_transfer_engine", "/invocations", "/is_paused", "/is_sleeping",
    "/kv_event_sources", "/load", "/load_lora_adapter", "/pause", "/ping", "/pooling",
    "/release_kv_cache_memory", "/rerank", "/reset_encoder_cache", "/reset_mm_cache",
    "/reset_prefix_cache", "/resume", "/scale_elastic_ep", "/score", "/server_info",
    "/shutdown_weight_transfer_engine", "/sleep", "/start_profile", "/start_weight_update",
    "/stop_profile", "/tokenize", "/tokenizer_info", "/update_weights", "/v1/audio/transcriptions",
    "/v1/chat/completions/batch", "/v1/chat/completions/render", "/v1/completions/render",
    "/v1/load_lora_adapter", "/v1/messages", "/v1/responses/resp_1", "/v1/responses/resp_1/cancel",
    "/v1/unload_lora_adapter", "/version", "/wake_up", "/weight_info",
)  # fmt: skip
"""vLLM's routes beside those that the gateway serves (vLLM 0.32, all development modes on)."""


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_route_of_an_engine_is_reached_through_the_gateway(site, method):
    engine_port = site.engine.port
    with connection(site.gate.port) as it:
        for path in ENGINE_ADMIN:
            it.sendall(request(method, path, body=b"{}"))
            told = read_one(it)
            assert (told.status, path, told.error["code"]) == (404, path, "not_found")
    climbing = (
        f"{CHAT}/../../../sleep", f"{CHAT}/%2e%2e/%2e%2e/%2e%2e/sleep", "/v1/..%2fsleep",
        "/v1/models/..%2f..%2fsleep", f"{CHAT}%00/sleep", f"{CHAT};/../sleep", f"{CHAT}/",
        f"//127.0.0.1:{engine_port}/sleep", f"http://127.0.0.1:{engine_port}/sleep",
        f"http://127.0.0.1:{engine_port}@gateway/sleep", "*", "/v1/models/%0d%0aset-cookie:%20a=b",
    )  # fmt: skip
    for target in climbing:
        told = ask(site.gate.port, request(method, target, body=b"{}"))
        assert told.status in (400, 404, 405), target
        assert told.header("set-cookie") is None
        assert told.header("location") is None
    assert "/sleep" not in site.engine.text()


def test_a_path_in_disguise_is_the_path_that_it_is(site):
    """Decoded once, and the engine is sent our own name of the route."""
    port = site.engine.port
    for target in ("/v1%2fchat/completions", f"http://127.0.0.1:{port}{CHAT}", f"{CHAT}?x=/sleep"):
        assert ask(site.gate.port, request(target=target, body=BODY)).status == 200
    assert ask(site.gate.port, request(target="/v1%252fchat/completions")).status == 404


def test_no_redirect_leads_to_a_host_that_the_client_names(site):
    told = ask(site.gate.port, request(target=f"{CHAT}/", headers={"host": "evil.example"}))
    assert (told.status, told.header("location")) == (404, None)


def test_slow_heads_do_not_keep_others_from_being_served(site):
    idle = [socket.create_connection(("127.0.0.1", site.gate.port)) for _ in range(200)]
    try:
        for it in idle:
            it.sendall(b"GET /")
        began = time.monotonic()
        assert ask(site.gate.port, request(body=BODY)).status == 200
        assert time.monotonic() - began < 15
    finally:
        for it in idle:
            it.close()
