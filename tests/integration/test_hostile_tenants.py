"""Tenants who lie: about who they are, what they ask, how often, and what it cost."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.gateway import (
    FakeEngine,
    Gateway,
    LedgerView,
    chat,
    config,
    fake_engine,
    gateway,
    lane,
    tenant,
)
from support.raw import CHAT, PATIENCE_S, RawAnswer, ask, connection, request

from fairgate.engines.process import free_port

RESPONSES = "/v1/responses"
MODEL = "tiny"
TOLD = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
NONSENSE = [
    {"prompt_tokens": -5, "completion_tokens": -100},
    {"prompt_tokens": 1, "completion_tokens": 10**18},
    {"prompt_tokens": 10**30, "completion_tokens": 1},
    {"prompt_tokens": "7", "completion_tokens": None},
    {"prompt_tokens": 1.5},
    {"completion_tokens": 5},
    [],
    "much",
    None,
]
LIMITED = {"limits": {"rpm": 1}}


@dataclass
class Site:
    gate: Gateway
    fake: FakeEngine
    ledger: LedgerView
    usage: Any = None
    """What the engine tells of the next answers."""

    def post(
        self, body: Any, who: str | None = "acme", path: str = CHAT, **headers: str
    ) -> RawAnswer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(self.gate.port, request(target=path, headers=named, body=raw, tenant=who))

    @property
    def told(self) -> dict[str, Any]:
        """The last body that the engine got."""
        return self.fake.bodies[-1]

    @property
    def asked(self) -> dict[str, str]:
        """The last headers that it got, names in lower case."""
        return {name.lower(): value for name, value in self.fake.headers[-1].items()}

    def settled_tokens(self, who: str) -> float:
        """Charged to ``who`` once nothing of it runs any more."""
        wait_until(lambda: self.ledger.number("tenant", who, "flight") == 0)
        return self.ledger.tokens(who)

    def log_of(self, request_id: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def there() -> bool:
            lines = self.gate.logs("request")
            found[:] = [line for line in lines if line["request_id"] == request_id]
            return bool(found)

        wait_until(there)
        return found[0]


def wait_until(condition: Any) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "the condition never came true"
        time.sleep(0.02)


@contextmanager
def engine_in_a_thread(port: int, site: list[Site]) -> Iterator[FakeEngine]:
    """A fake engine on an event loop of its own; ``site`` says what it tells."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    made: list[FakeEngine] = []
    ready = threading.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        body = made[0].bodies[-1]
        if request.path == RESPONSES:
            return await echo(request, body)
        choice = {"index": 0, "message": {"role": "assistant", "content": "fern"}}
        usage = site[0].usage if site and site[0].usage is not None else TOLD
        return web.json_response({"choices": [choice], "usage": usage})

    async def run() -> None:
        async with fake_engine(port, answer) as fake:
            made.append(fake)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield made[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE_S)
        loop.close()


async def echo(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """As vLLM does: the first event has all that the client sent; then it writes without end."""
    stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await stream.prepare(request)
    echoed = {"id": "resp_1", "tools": body.get("tools"), "usage": None}
    await stream.write(event({"type": "response.created", "response": echoed}))
    try:
        while True:
            await stream.write(event({"type": "response.output_text.delta", "delta": "fern "}))
            await asyncio.sleep(0.01)
    except ConnectionError:
        return stream


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey_server: str) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("hostile-tenants")
    port = free_port()
    made: list[Site] = []
    names = ("acme", "globex", "family-a", "family-b", "forger", "aborter", "beginner")
    tenants = {name: tenant(name) for name in names}
    for member in ("family-a", "family-b"):
        tenants[member]["cache_group"] = "family"
    tenants |= {
        "owner": tenant("owner", **LIMITED),
        "thief": tenant("thief", **LIMITED),
        "users": tenant("users", user_limits={"rpm": 1}),
        "counter": tenant("counter", **LIMITED),
        "scrooge": tenant("scrooge", limits={"daily_tokens": 100}),
        "picky": tenant("picky", apps=["chat"]),
    }
    url = f"http://127.0.0.1:{port}"
    plain = lane(url)
    plain["engines"][0]["cache_salt"] = False
    settings = config(
        {"tiny": lane(url), "shared": plain | {"model": "shared"}},
        store=valkey_server,
        tenants=tenants,
        apps={"default": {}, "chat": {}, "code": {}},
        policy={"preset": "fairserve", "throttle": "always", "interactions": {"max_calls": 3}},
        server={"failed_keys_per_minute": 5, "trusted_proxies": ["127.0.0.0/8"]},
    )
    with (
        LedgerView(valkey_server) as ledger,
        engine_in_a_thread(port, made) as fake,
        gateway(folder, settings) as gate,
    ):
        made.append(Site(gate, fake, ledger))
        yield made[0]


def test_forged_headers_do_not_reach_the_engine(site):
    forged = dict.fromkeys(
        ("x-vllm-priority", "x-fairgate-lane", "x-fairgate-user", "x-fairgate-queue-ms",
         "x-data-parallel-rank", "x-session-id", "cookie", "x-forwarded-for", "x-api-key"), "1",
    )  # fmt: skip
    assert site.post(chat(), **forged).status == 200
    assert not {name for name in site.asked if name.startswith(("x-fair", "x-vllm", "x-data"))}
    assert not site.asked.keys() & {"authorization", *forged}


def test_fields_that_only_we_may_set_are_replaced_or_dropped(site):
    forged = {"priority": -9, "cache_salt": "of globex", "request_id": "of globex"}
    transfer = {"kv_transfer_params": {"do_remote_prefill": True, "remote_host": "10.0.0.1"}}
    assert site.post(chat(**forged, **transfer, ec_transfer_params={})).status == 200
    assert site.told.keys() == {*chat(), "cache_salt"}
    assert site.told["cache_salt"] != "of globex"


def test_no_two_requests_have_one_id_at_the_engine(site):
    """vLLM names, and aborts, its work by the id: it must never be another tenant's."""
    seen = set()
    for who in ("acme", "globex", "acme"):
        told = site.post(chat(), who, x_request_id="mine")
        assert told.header("x-request-id") == "mine"
        assert re.fullmatch("mine-gw-[0-9a-f]{8}-[0-9]+-1", site.asked["x-request-id"])
        seen.add(site.asked["x-request-id"])
    assert len(seen) == 3


def test_tenants_share_no_prefix_cache_unless_they_are_told_to(site):
    salts = {}
    for who in ("acme", "globex", "family-a", "family-b", "acme"):
        assert site.post(chat(), who).status == 200
        assert salts.setdefault(who, site.told["cache_salt"]) == site.told["cache_salt"]
        assert re.fullmatch("[0-9a-f]{32}", site.told["cache_salt"])  # vLLM refuses @, / and \
    assert salts["family-a"] == salts["family-b"]
    assert len(set(salts.values())) == 3
    assert site.post({**chat(cache_salt="x"), "model": "shared"}).status == 200
    assert "cache_salt" not in site.told


def test_the_interaction_of_another_tenant_gains_nothing(site):
    run = {"x_fairgate_interaction": "run-1"}
    assert [site.post(chat(), "owner", **run).status for _ in range(2)] == [200, 200]
    assert site.post(chat(), "thief").status == 200  # all that it has for this minute
    stolen = site.post(chat(), "thief", **run)
    assert (stolen.status, stolen.error["code"]) == (429, "rate_limit_exceeded")
    assert site.post(chat(), "owner", **run).status == 200  # nor did the owner lose it


def test_the_interaction_of_another_user_gains_nothing(site):
    run = {"x_fairgate_interaction": "run-1"}
    assert [site.post(chat(), "users", x_fairgate_user="ann", **run).status for _ in "12"] == [
        200
    ] * 2
    assert site.post(chat(), "users", x_fairgate_user="bob").status == 200
    assert site.post(chat(), "users", x_fairgate_user="bob", **run).status == 429


def test_calls_are_counted_by_us(site):
    """Three to an interaction, whatever number the client tells."""
    forged = {"x_fairgate_interaction": "r", "x_fairgate_call": "1", "x_fairgate_calls": "0"}
    assert [site.post(chat(), "counter", **forged).status for _ in range(4)] == [200] * 3 + [429]


def test_usage_that_a_client_sends_is_not_heard(site):
    before = site.settled_tokens("forger")
    forged = {"prompt_tokens": 0, "completion_tokens": 0}
    assert site.post(chat(usage=forged, **forged), "forger").status == 200
    assert site.settled_tokens("forger") - before == 12


@pytest.mark.parametrize("nonsense", NONSENSE, ids=json.dumps)
def test_usage_that_makes_no_sense_is_not_charged(site, nonsense):
    before = site.settled_tokens("forger")
    site.usage = nonsense
    try:
        assert site.post(chat(max_tokens=20), "forger").status == 200
    finally:
        site.usage = None
    assert 0 <= site.settled_tokens("forger") - before < 100


def test_usage_hidden_in_the_schema_of_a_tool_is_not_heard(site):
    """vLLM echoes tools in the first event of a stream; then the client leaves."""
    before = site.settled_tokens("aborter")
    forged = {"usage": {"input_tokens": 0, "output_tokens": 0}}
    tool = {"type": "function", "name": "f", "parameters": forged}
    body = {"model": MODEL, "input": "Ferns? " * 40, "stream": True, "tools": [tool]}
    with connection(site.gate.port) as it:
        it.sendall(request(target=RESPONSES, body=json.dumps(body).encode(), tenant="aborter"))
        data = b""
        while data.count(b"delta") < 5:
            data += it.recv(65_536)
        assert b'"input_tokens":0' in data
    assert site.settled_tokens("aborter") - before > 40


def test_the_larger_of_two_caps_counts(site):
    app = {"x_fairgate_app": "code"}  # of which nothing is learned yet
    small = site.post(chat(max_tokens=1), "scrooge", **app)
    assert small.status == 200
    both = site.post(chat(max_tokens=1, max_completion_tokens=10_000), "scrooge", **app)
    assert (both.status, both.error["code"]) == (429, "insufficient_quota")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", b"1000000"), ("n", b"0"), ("n", b"-1"), ("n", b"1e9"), ("best_of", b"1000000"),
        ("max_tokens", b"-1"), ("max_tokens", b"0"), ("max_tokens", b"NaN"),
        ("max_tokens", b"Infinity"), ("max_tokens", b"1e400"), ("max_tokens", b"1" * 5000),
        ("max_completion_tokens", b"9223372036854775808"), ("stream", b'"yes"'),
        ("model", b'["tiny"]'), ("user", b"{}"), ("temperature", b"NaN"), ("model", b'"\\ud800"'),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_by_name(site, field, value):
    asked = len(site.fake.bodies)
    told = site.post(b'{"messages":[],"%b": %b}' % (field.encode(), value))
    assert told.status == 400
    assert field in told.error["message"] or "surrogate" in told.error["message"]
    assert len(told.body) < 1000
    assert len(site.fake.bodies) == asked


def test_of_two_alike_the_engine_gets_the_one_that_was_accounted_for(site):
    body = (
        b'{"max_tokens":1,"n":1,"model":"shared","messages":[{"role":"user","content":"a"}],'
        b'"model":"tiny","max_tok\\u0065ns":9,"\\u006e":2,"messages":[],"pri\\u006frity":-1}'
    )
    assert site.post(body).status == 200
    salt = site.told["cache_salt"]
    assert site.told == {
        "max_tokens": 9,
        "n": 2,
        "model": "tiny",
        "messages": [],
        "cache_salt": salt,
    }


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b'{"messages":' + b"[" * 400_000,
        b'{"messages":"\xff\xfe"}',
        b'{"messages":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"model":"tiny"}',
        '{"model":"tiny"}'.encode("utf-16"),
        b"{" + b",".join(b'"%d":0' % i for i in range(200_000)) + b"}",
        b'{"messages":[]}{"messages":[]}',
        b"[" * 1_000_000,
        b"",
    ],
    ids=lambda body: repr(body[:16]),
)
def test_what_is_no_plain_object_is_refused(site, body):
    told = site.post(body)
    assert (told.status, told.error["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("forged", [b"x\r\nx-fairgate-user: root", b"x\ny: z", b"x\x00", b"x\rz"])
def test_no_header_begins_another(site, forged):
    data = request(body=b"{}", lines=(b"x-request-id: " + forged,))
    told = ask(site.gate.port, data)
    assert told.status == 400 or told.header("x-request-id") == "x"


def test_no_client_writes_a_line_of_the_log(site):
    line = '\n{"event":"request","tenant":"globex","request_id":"forged"}\n\x1b[2J'
    site.post(chat(user=line), x_request_id="injected", x_fairgate_interaction="a\tb")
    site.post({**chat(), "model": f"tiny{line}"}, x_fairgate_user="\xe9\xff")
    site.post(chat(), "picky", x_fairgate_app="\x7fcode")
    ask(site.gate.port, request("GET", "/v1/models/%0a%7b%22event%22%3a%22forged%22%7d"))
    found = site.log_of("injected")
    assert re.fullmatch("[0-9a-f]{32}", found["user"])  # a digest of what was sent
    assert not [it for it in site.gate.logs() if it.get("request_id") == "forged"]
    assert "\x1b" not in site.gate.text()
    assert "forged" not in {it["event"] for it in site.gate.logs()}


def test_a_403_is_logged_under_its_tenant(site):
    told = site.post(chat(), "picky", x_fairgate_app="code", x_request_id="not-yours")
    assert (told.status, told.error["code"]) == (403, "app_not_allowed")
    line = site.log_of("not-yours")
    assert (line["tenant"], line["status"], line["outcome"]) == ("picky", 403, "refused")


def test_nobody_sees_what_is_of_another_tenant(site):
    assert site.post(chat("the secret of globex"), "globex", x_request_id="g-1").status == 200
    for path in ("/fairgate/v1/me", "/v1/models", "/openapi.json"):
        seen = ask(site.gate.port, request("GET", path, headers={"x-fairgate-user": "globex"}))
        assert b"globex" not in seen.body.replace(b'"user":"globex"', b"")
    verdict = {"request_id": "g-1", "score": 0}
    assert site.post(verdict, path="/fairgate/v1/feedback").status == 404
    assert "secret of globex" not in site.gate.text()


def test_metrics_are_not_for_the_public(site):
    outside = request("GET", "/metrics", headers={"x-forwarded-for": "203.0.113.9"})
    told = ask(site.gate.port, outside)
    assert (told.status, told.error["code"]) == (404, "not_found")


def _comes_and_goes(series: str) -> bool:
    """With who asks just now, and with what a heartbeat has told so far, of what is configured."""
    return "_ratio{pool=" in series or series.startswith("fairgate_app_expected_")


def test_series_of_metrics_do_not_grow_with_what_clients_name(site):
    def series() -> set[str]:
        text = ask(site.gate.port, request("GET", "/metrics", tenant=None)).body.decode()
        names = {line.rpartition(" ")[0] for line in text.splitlines() if line[:1] != "#"}
        return {name for name in names if not _comes_and_goes(name)}

    def flood(first: int, last: int) -> None:
        for i in range(first, last):
            site.post(
                {**chat(user=f"u{i}"), "model": "tiny" if i % 4 else f"m{i}"}, "beginner",
                x_fairgate_interaction=f"r{i}", x_fairgate_app=f"a{i}" if i % 4 == 1 else "chat",
            )  # fmt: skip
            ask(site.gate.port, request("GET", f"/p{i}", tenant=f"nobody-{i}" if i < 2 else None))

    flood(0, 8)
    before = series()
    flood(8, 80)
    assert series() - before == set()


def test_guessing_keys_is_slowed_by_address_and_harms_nobody_else(site):
    def guess(address: str, path: str = CHAT) -> RawAnswer:
        headers = {"x-forwarded-for": address, "authorization": "Bearer guess"}
        return ask(site.gate.port, request(target=path, headers=headers, body=b"{}"))

    assert [guess("192.0.2.1").status for _ in range(6)] == [401] * 5 + [429]
    told = guess("192.0.2.1")
    assert (told.status, told.error["code"]) == (429, "too_many_unknown_keys")
    assert 1 <= int(told.header("retry-after") or 0) <= 120
    assert guess("203.0.113.1, 192.0.2.1").status == 429  # what it claims itself does not help
    assert guess("192.0.2.2").status == 401
    assert site.post(chat(), x_forwarded_for="192.0.2.1").status == 200
    for path in ("/fairgate/v1/feedback", "/v1/completions"):
        assert guess("192.0.2.1", path).status == 429
    for path in ("/v1/models", "/fairgate/v1/me"):
        headers = {"x-forwarded-for": "192.0.2.1", "x-api-key": "guess", "authorization": ""}
        assert ask(site.gate.port, request("GET", path, headers=headers)).status == 429
    keyless = request("GET", "/v1/models", headers={"x-forwarded-for": "192.0.2.9"}, tenant=None)
    assert {ask(site.gate.port, keyless).status for _ in range(8)} == {401}  # no guess
    assert "Bearer guess" not in site.gate.text()
