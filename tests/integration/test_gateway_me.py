"""``GET /fairgate/v1/me``: what the script reads, and what the gateway makes of it for whom."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

import aiohttp
import pytest
import redis
from support.gateway import (
    Gateway,
    bearer,
    chat,
    config,
    engine,
    eventually,
    gateway,
    key_of,
    lane,
    long_chat,
    tenant,
)
from support.ledger_driver import POOL, LedgerDriver

from fairgate.admission.ledger import Ledger, Unknown
from fairgate.admission.model import EngineReport, TenantView
from fairgate.config import Levels, Policy
from fairgate.me.app import PATH, wants_html

ONE = (EngineReport("small", "e0", True, 1),)
Make = Callable[..., LedgerDriver]

# The script


@pytest.fixture
def make(valkey_server: str) -> Iterator[Make]:
    made: list[LedgerDriver] = []

    def build(**kw: Any) -> LedgerDriver:
        made.append(LedgerDriver(valkey_server, engines=ONE, **kw))
        return made[-1]

    yield build
    for driver in made:
        driver.close()


def look(
    driver: LedgerDriver, name: str, user: str = "u", weights: dict[str, float] | None = None
) -> TenantView:
    view = driver._run(lambda: driver.ledgers["g0"].view(name, user, weights))
    assert isinstance(view, TenantView)
    return view


POLICIES = [Policy(levels=levels) for levels in get_args(Levels)] + [Policy(preset="fcfs")]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: f"{p.preset}-{p.levels}")
def test_the_place_told_is_the_place_in_which_it_is_granted(make, policy):
    """Tenants of different weights, users and sizes; nobody else comes."""
    driver = make(policy=policy)
    driver.admit("running", tenant="busy")
    who = [
        ("acme", "alice", 100.0, 2.0), ("acme", "alice", 100.0, 2.0), ("acme", "bob", 100.0, 2.0),
        ("globex", "x", 30.0, 1.0), ("globex", "x", 30.0, 1.0), ("globex", "y", 30.0, 1.0),
        ("initech", "u", 250.0, 1.0), ("initech", "u", 250.0, 1.0), ("acme", "bob", 100.0, 2.0),
        ("globex", "y", 30.0, 1.0), ("initech", "v", 250.0, 1.0), ("acme", "carol", 100.0, 2.0),
    ]  # fmt: skip
    for number, (name, user, cost, weight) in enumerate(who):
        driver.admit(f"r{number}", name, user=user, cost=cost, tenant_weight=weight)
    told = {}
    for name, user, *_ in who:
        (line,) = look(driver, name, user).lanes
        told["tenant", name] = line.tenant and line.tenant.ahead
        told["user", name, user] = line.user and line.user.ahead
    order = [who[int(i[1:])] for i in order_of_grants(driver, len(who))]
    for who_is, ahead in told.items():
        kind, *names = who_is
        if kind == "tenant" and policy.levels == "user":
            assert ahead is None  # its users stand in line by themselves
        else:
            assert ahead == next(
                place for place, w in enumerate(order) if list(w[: len(names)]) == names
            ), who_is


def order_of_grants(driver: LedgerDriver, waiting: int) -> list[str]:
    order: list[str] = []
    for _ in range(waiting):
        before = set(driver.granted)
        (running,) = driver.running()
        driver.settle(running, cost=float(driver.record("request", running)["cost"]))
        order += [i for i in driver.granted if i not in before]
    return order


def test_looking_is_one_call_and_changes_nothing(make):
    driver = make()
    for number in range(6):
        driver.admit(f"r{number}", "acme" if number % 2 else "globex", user=f"u{number}")
    driver.now += 90_000  # a new minute and a new day: the accounts that are read are outdated
    client = driver.client

    def state() -> dict[str, Any]:
        dumped = redis_without_decoding(driver)
        return {key: dumped.dump(key) for key in sorted(dumped.keys())}

    def calls() -> int:
        stats = client.info("commandstats")
        return sum(stats.get(f"cmdstat_{n}", {}).get("calls", 0) for n in ("evalsha", "fcall"))

    before, called = state(), calls()
    view = look(driver, "acme", "u1", {"acme": 2.0, "globex": 1.0})
    assert calls() == called + 1
    assert state() == before
    assert view.tenant.tokens_today == 0
    assert view.tenant.flight == 3


def redis_without_decoding(driver: LedgerDriver) -> Any:
    kwargs = driver.client.connection_pool.connection_kwargs | {"decode_responses": False}
    pool = type(driver.client.connection_pool)(
        connection_class=driver.client.connection_pool.connection_class, **kwargs
    )
    return type(driver.client)(connection_pool=pool)


def test_only_those_with_requests_in_flight_are_weighed(make):
    driver = make()
    weights = {"acme": 2.0, "globex": 1.0, "initech": 5.0, "done": 7.0}
    driver.admit("d", "done")
    driver.settle("d")
    for name in ("globex", "initech"):
        driver.admit(name, name)
    assert look(driver, "acme", weights=weights).other_weight == 6.0
    assert look(driver, "globex", weights=weights).other_weight == 5.0
    assert look(driver, "globex").other_weight is None
    assert look(driver, "acme", weights=weights).running == 1


def test_a_store_that_forgot_the_pool_says_so(make):
    driver = make()
    ledger = Ledger(driver.link, f"{POOL}-other", "g0")
    assert isinstance(driver._run(lambda: ledger.view("acme", "u", None)), Unknown)


# The gateway


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Lane ``narrow`` runs one sequence, slowly; ``quick`` is quick; ``gone`` has no engine."""
    folder = tmp_path_factory.mktemp("me")
    with (
        engine(folder, "--profile", "instant") as quick,
        engine(folder, "--model", "slow", "--max-num-seqs", "1") as narrow,
    ):
        limits = {"rpm": 60, "tpm": 90_000, "concurrency": 9, "daily_tokens": 5_000_000}
        acme = tenant("acme", weight=3, apps=["chat"], limits=limits, user_limits={"rpm": 30})
        acme["keys"][0]["name"] = "<script>alert(1)</script>"
        settings = config(
            {
                "quick": lane(quick.url),
                "narrow": lane(narrow.url, max_num_seqs=1, model="slow"),
                "gone": lane("http://127.0.0.1:9", model="gone"),
            },
            tenants={"acme": acme, "globex": tenant("globex"), "calm": tenant("calm")},
            apps={"chat": {}, "code": {}},
        )
        with gateway(folder, settings, ready=False) as it:
            yield it


async def me(http: aiohttp.ClientSession, gate: Gateway, *who: str, **sent: str) -> dict[str, Any]:
    async with http.get(gate.url + PATH, headers=bearer(*who, **sent)) as answer:
        assert answer.status == 200, await answer.text()
        found: dict[str, Any] = await answer.json()
        return found


async def test_a_tenant_sees_its_limits_and_what_it_used(gate, http):
    async def up() -> Any:
        (pool,) = (await me(http, gate, "acme"))["pools"]
        return {lane["name"]: lane["state"] for lane in pool["lanes"]}

    await eventually(lambda: up(), within_s=10)
    url = f"{gate.url}/v1/chat/completions"
    headers = bearer("acme", x_fairgate_user="alice")
    async with http.post(url, json=chat(max_tokens=3), headers=headers) as answer:
        assert answer.status == 200
        usage = (await answer.json())["usage"]["total_tokens"]
        told = int(answer.headers["x-ratelimit-remaining-tokens"])

    async def settled() -> Any:
        found = await me(http, gate, "acme", x_fairgate_user="alice")
        return found["pools"][0]["user"]["tokens_today"] == usage and found

    found = await eventually(settled)
    (pool,) = found["pools"]
    assert found["schema"] == 1
    assert (found["tenant"], found["user"], found["weight"]) == ("acme", "alice", 3.0)
    assert found["apps"] == ["chat"]
    assert found["key"]["name"] == "<script>alert(1)</script>"
    assert (pool["policy"], pool["throttle"]) == ("fairserve", "overload")
    limits = pool["tenant"]["limits"]
    assert [limits[n]["limit"] for n in ("rpm", "tpm", "concurrency", "daily_tokens")] == [
        60, 90_000, 9, 5_000_000,
    ]  # fmt: skip
    assert all(q["used"] + q["remaining"] == q["limit"] for q in limits.values())
    assert limits["tpm"]["remaining"] >= told  # the estimate was more than it took
    assert pool["user"]["limits"]["rpm"]["limit"] == 30
    assert pool["user"]["limits"]["tpm"]["remaining"] is None
    assert pool["tenant"]["service_counter"] > 0
    assert {lane["name"]: lane["state"] for lane in pool["lanes"]} == {
        "quick": "up", "narrow": "up", "gone": "down",
    }  # fmt: skip


async def test_those_who_wait_see_their_place_and_share_but_not_each_other(gate, http):
    url = f"{gate.url}/v1/chat/completions"
    asking: list[asyncio.Task[Any]] = []

    async def ask(who: str, user: str) -> None:
        body = long_chat(stream=True) | {"model": "slow"}
        async with http.post(url, json=body, headers=bearer(who, x_fairgate_user=user)) as answer:
            await answer.read()

    async def seen(who: str, user: str, running: int, waiting: int) -> Any:
        found = await me(http, gate, who, x_fairgate_user=user)
        use = found["pools"][0]["tenant"]
        return (use["running"], use["waiting"]) == (running, waiting) and found

    try:
        asking.append(asyncio.create_task(ask("globex", "x")))
        await eventually(lambda: seen("globex", "x", 1, 0))
        for who, user in (("globex", "x"), ("acme", "alice"), ("acme", "alice"), ("acme", "bob")):
            asking.append(asyncio.create_task(ask(who, user)))
        acme = await eventually(lambda: seen("acme", "bob", 0, 3))
        globex = await eventually(lambda: seen("globex", "x", 1, 1))
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    (pool,) = acme["pools"]
    narrow = next(lane for lane in pool["lanes"] if lane["name"] == "narrow")
    assert narrow["state"] == "saturated"
    assert pool["share"] == {"running": 0.0, "fair": 0.75}
    assert globex["pools"][0]["share"] == {"running": 1.0, "fair": 0.25}
    # It had nothing yet: its turn is before that of the tenant who runs already.
    assert narrow["tenant_position"] == {"tenants_ahead": 0, "requests_ahead": 0, "wait_s": None}
    assert narrow["user_position"]["users_ahead"] == 1
    assert "globex" not in str(acme)
    assert "acme" not in str(globex)
    assert "alice" not in str(acme)


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def get(
    http: aiohttp.ClientSession, gate: Gateway, method: str = "GET", **headers: str
) -> tuple[int, Any, str]:
    async with http.request(method, gate.url + PATH, headers=headers) as answer:
        return answer.status, answer.headers, await answer.text()


def basic(key: str) -> str:
    return "Basic " + base64.b64encode(f"any:{key}".encode()).decode()


async def test_a_browser_gets_a_page_for_the_key_as_password(gate, http):
    status, headers, text = await get(
        http, gate, accept=BROWSER, authorization=basic(key_of("acme"))
    )
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert headers["cache-control"] == "no-store"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "<h1>acme</h1>" in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text
    assert not re.search(r"<[^>]*\sstyle=", text)  # the policy would not let it through
    assert "globex" not in text
    assert 'http-equiv="refresh"' not in text
    async with http.get(
        f"{gate.url}{PATH}?refresh", headers={"accept": BROWSER} | bearer("acme")
    ) as answer:
        assert 'http-equiv="refresh"' in await answer.text()


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Basic !", basic("wrong"), "Basic"])
async def test_without_a_key_a_browser_asks_for_one(gate, http, authorization):
    sent = {"authorization": authorization} if authorization else {}
    status, headers, text = await get(http, gate, accept=BROWSER, **sent)
    assert status == 401
    assert headers.getall("www-authenticate")[0].startswith("Basic ")
    assert len(headers.getall("www-authenticate")) == len(headers.getall("content-type")) == 1
    assert headers["cache-control"] == "no-store"
    assert "<h1>Unauthorized</h1>" in text


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", basic(key_of("acme"))])
async def test_without_a_key_a_program_gets_an_openai_error(gate, http, authorization):
    """Basic authentication is for the page alone."""
    sent = {"authorization": authorization} if authorization else {}
    status, headers, text = await get(http, gate, **sent)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert headers["cache-control"] == "no-store"
    assert '"code":"invalid_api_key"' in text


async def test_head_tells_the_length_and_other_methods_are_refused(gate, http):
    status, headers, text = await get(http, gate, "HEAD", **bearer("calm"))
    assert (status, text, headers["content-type"]) == (200, "", "application/json")
    assert int(headers["content-length"]) > 100
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, headers, text = await get(http, gate, method, **bearer("calm"))
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        assert '"code":"method_not_allowed"' in text


async def test_without_the_store_it_says_so(http, tmp_path, valkey_server):
    """Here: a store that restarted empty, before the next heartbeat."""
    settings = config({"gone": lane("http://127.0.0.1:9")}, store=valkey_server, pool="lost")
    settings["store"]["heartbeat_s"] = 3600
    with gateway(tmp_path, settings, ready=False) as it:
        assert (await get(http, it, **bearer()))[0] == 200
        with redis.Redis.from_url(valkey_server) as client:
            client.delete("fg:{lost}:settings")

        async def refused() -> Any:
            status, headers, text = await get(http, it, **bearer())
            return status == 503 and (headers, text)

        headers, text = await eventually(refused)
        assert '"code":"store_unavailable"' in text
        assert 1 <= int(headers["retry-after"]) <= 120
        status, headers, text = await get(http, it, **bearer(accept="text/html"))
        assert (status, headers["content-type"]) == (503, "text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/html", False),
        ("text/html;q=0.5, application/json", False),
        ("text/html;q=0, */*;q=0.1", False),
        ("text/html", True),
        ("text/*", True),
        (BROWSER, True),
        ("application/json;q=0.5, TEXT/HTML ; q=0.9", True),
    ],
)
def test_what_the_client_likes_more(accept, html):
    assert wants_html(accept.encode()) is html
