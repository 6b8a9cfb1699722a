"""What operators see of a pool: the script, the JSON routes of a gateway, ``fairgate top``."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from support.flood import flood
from support.gateway import (
    Gateway,
    config,
    engine,
    eventually,
    gateway,
    lane,
    tenant,
)
from support.ledger_driver import LedgerDriver, limits
from typer.testing import CliRunner

from fairgate.admission.ledger import Ledger, Unknown
from fairgate.admission.look import NOBODY, PoolLook
from fairgate.admission.model import EngineReport
from fairgate.cli import app
from fairgate.config import Policy, Queue
from fairgate.inspection import report

ADMIN = "the-operators-key"
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


def look(driver: LedgerDriver, *tenants: str, most: int = 20, since: float = 0) -> PoolLook:
    first = int((driver.now - since) // 10)
    found = driver._run(lambda: driver.ledgers["g0"].inspect(tenants, since_slice=first, most=most))
    assert isinstance(found, PoolLook)
    return found


def test_the_line_is_told_in_the_order_of_turns_with_what_is_next(make) -> None:
    driver = make()
    driver.admit("running", tenant="busy")
    driver.admit("a1", tenant="acme", user="alice", app="chat", tokens=70)
    driver.now += 3
    driver.admit("a2", tenant="acme", user="bob")
    driver.admit("g1", tenant="globex")
    (small,) = look(driver).lanes
    assert (small.waiting, small.free, small.tenants_waiting) == (3, 0, 2)
    assert {w.tenant: (w.place, w.users) for w in small.line} == {"acme": (0, 2), "globex": (1, 1)}
    first = small.line[0].next
    assert first is not None
    assert (first.id, first.user, first.tokens) == ("a1", "alice", 70)
    assert (first.waited_ms, first.oldest_ms) == (3000, 3000)
    driver.settle("running")
    assert [w.next.id for w in look(driver).lanes[0].line if w.next] == ["g1", "a2"]


def test_it_reads_only_and_only_what_it_may(make) -> None:
    driver = make()
    for n in range(30):
        driver.admit(f"r{n}", tenant=f"t{n:02}")
    before = {key: driver.client.dump(key) for key in driver.client.scan_iter()}
    found = look(driver, "t29", "nobody", most=5)
    assert {key: driver.client.dump(key) for key in driver.client.scan_iter()} == before
    (small,) = found.lanes
    assert small.tenants_waiting == 29
    assert [w.tenant for w in small.line] == ["t01", "t02", "t03", "t04", "t05", "t29"]
    assert small.line[-1].place == 28
    told = {t.name: (t.waiting, t.flight) for t in found.tenants}
    assert told == {"t29": (1, 1), "nobody": (0, 0)} | {f"t0{n}": (1, 1) for n in range(1, 6)}


def test_engines_and_accounts_are_those_of_the_ledger(make) -> None:
    driver = make()
    driver.admit("r", tenant="acme", cost=100.0, tokens=60, kv_tokens=60)
    found = look(driver, "acme")
    (e0,) = found.lanes[0].engines
    assert (e0.name, e0.up, e0.running, e0.max_num_seqs, e0.kv_tokens) == ("e0", True, 1, 1, 60)
    (acme,) = found.tenants
    assert (acme.counter, acme.tokens_today) == (driver.counter("acme"), 60)
    assert (found.gateways, found.levels) == (1, "tenant+user")
    driver.engines = [EngineReport("small", "e0", False, 1)]
    driver.beat()
    assert not look(driver).lanes[0].engines[0].up


@pytest.mark.parametrize("levels", ["user", "tenant"])
def test_lines_that_do_not_tell_all_apart_say_whose_request_is_next(make, levels) -> None:
    driver = make(policy=Policy(levels=levels))
    driver.admit("running", tenant="busy")
    driver.admit("a1", tenant="acme")
    found = look(driver)
    (entry,) = found.lanes[0].line
    assert entry.tenant == (NOBODY if levels == "user" else "acme")
    assert entry.next is not None
    assert entry.next.tenant == "acme"
    assert [t.name for t in found.tenants] == ["acme"]


def test_a_pool_that_the_store_does_not_know_is_unknown(make) -> None:
    driver = make()
    stranger = Ledger(driver.link, "elsewhere", "g0")
    assert isinstance(driver._run(stranger.inspect), Unknown)


def service(found: PoolLook) -> dict[str, float]:
    sums: dict[str, float] = {}
    for one in found.slices:
        for name, units in one.service:
            sums[name] = sums.get(name, 0.0) + units
    return sums


def test_the_history_sums_to_what_was_charged_at_the_lanes_price(make) -> None:
    driver = make()
    driver.admit("a", tenant="acme", cost=100.0, tenant_weight=4.0, lanes=(("small", 3.0),))
    driver.wait(12)
    driver.settle("a", cost=20.0)
    driver.admit("g", tenant="globex", cost=50.0)
    driver.cancel("g")
    found = look(driver, since=30)
    assert service(found) == {"acme": 60.0, "globex": 0.0}
    assert {one.number for one in found.slices} == set(range(found.slice - 3, found.slice + 1))
    assert dict(found.slices[-1].service)["acme"] == -240.0


def test_refusals_are_counted_by_tenant_and_limit(make) -> None:
    driver = make(queue=Queue(max_waiting=1))
    for n in range(3):
        driver.admit(f"a{n}", tenant="acme", tenant_limits=limits(concurrency=1))
    driver.admit("g0", tenant="globex")
    driver.admit("g1", tenant="globex")
    refused = dict(look(driver).slices[-1].refused)
    assert refused == {"acme tenant.concurrency": 2, "globex queue": 1}


def test_a_slice_tells_a_bounded_number_of_tenants_apart_and_loses_nothing(make) -> None:
    driver = make()
    for n in range(1100):
        driver.admit(f"r{n}", tenant=f"t{n}", cost=2.0)
        driver.settle(f"r{n}", cost=2.0)
        driver.admit(f"x{n}", tenant=f"t{n}", user="v", tenant_limits=limits(daily_tokens=1))
    (now,) = look(driver).slices
    assert len(now.service) <= 1025
    assert sum(units for _, units in now.service) == pytest.approx(2200)
    assert dict(now.service)[NOBODY] > 0
    assert len(now.refused) <= 1025
    assert sum(count for _, count in now.refused) == 1100


def test_the_history_goes_by_itself(make) -> None:
    driver = make(queue=Queue(max_waiting=0))
    driver.admit("a", tenant="acme")
    driver.admit("b", tenant="acme")
    kept = [*driver.client.scan_iter("*service:*"), *driver.client.scan_iter("*refused:*")]
    assert len(kept) == 2
    assert all(900_000 < driver.client.pttl(key) <= 960_000 for key in kept)


# The routes and the command


@pytest.fixture(scope="module")
def flooded(valkey_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("inspection")
    with engine(folder) as one:
        settings = config(
            {"small": lane(one.url)},
            store=valkey_server,
            pool="inspection",
            tenants={"hog": tenant("hog", limits={"concurrency": 20}), "mild": tenant("mild")},
            admin={"keys": [{"sha256": hashlib.sha256(ADMIN.encode()).hexdigest()}]},
        )
        with gateway(folder, settings) as it, flood(it.url, {"hog": 24, "mild": 1}):
            yield it


async def get(url: str, what: str, key: str = ADMIN) -> tuple[int, bytes]:
    headers = {"authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{url}/fairgate/v1/{what}", headers=headers) as answer,
    ):
        return answer.status, await answer.read()


async def test_ledger_and_queue_tell_of_the_flood(flooded: Gateway) -> None:
    said = "hog floods; mild is protected."

    async def ledger() -> report.PoolLedger | None:
        status, body = await get(flooded.url, "ledger")
        assert status == 200
        pools = msgspec.json.decode(body, type=report.Ledger).pools
        return pools[0] if pools and pools[0].summary == said else None

    found = await eventually(ledger)
    assert (found.name, found.policy, found.limit) == ("inspection", "fairserve", 4)
    by_name = {t.name: t for t in found.tenants}
    hog, mild = by_name["hog"], by_name["mild"]
    assert hog.share_fair == mild.share_fair == 0.5
    assert hog.share_service > mild.share_service > 0
    assert hog.share_service + mild.share_service == pytest.approx(1, abs=0.001)
    assert hog.excess > 2
    assert hog.refused["tenant.concurrency"] > 0
    (small,) = found.lanes
    assert (small.state, small.engines[0].name) == ("saturated", "small-0")
    _, body = await get(flooded.url, "queue")
    (pool,) = msgspec.json.decode(body, type=report.Queue).pools
    (line,) = pool.lanes
    assert line.why == "all sequences are taken"
    hogs = next(w for w in line.line if w.tenant == "hog")
    assert 10 <= hogs.waiting <= 20
    assert hogs.oldest_wait_s is not None
    assert hogs.next is not None


async def test_only_admin_keys_open_them(flooded: Gateway) -> None:
    assert [(await get(flooded.url, what, "x"))[0] for what in ("ledger", "queue")] == [401, 401]


async def test_without_an_admin_key_there_is_nothing(tmp_path: Path) -> None:
    with (
        engine(tmp_path, "--profile", "instant") as one,
        gateway(tmp_path, config({"small": lane(one.url)})) as it,
    ):
        for what in ("ledger", "queue"):
            assert (await get(it.url, what))[0] == 404
        async with aiohttp.ClientSession() as http:
            for path in ("", "login", "tenants", "events", "static/dashboard.css"):
                async with http.get(f"{it.url}/fairgate/{path}") as answer:
                    assert answer.status == 404, path


def run(gate: Gateway, *options: str, key: str = ADMIN) -> Any:
    return CliRunner().invoke(
        app, ["top", "--url", gate.url, *options], env={"FAIRGATE_ADMIN_KEY": key, "COLUMNS": "110"}
    )


async def test_top_prints_one_frame(flooded: Gateway) -> None:
    async def frame() -> str:
        done = await asyncio.to_thread(run, flooded, "--once", "--sort", "name")
        assert done.exit_code == 0, done.output
        return str(done.output) if "hog floods" in done.output else ""

    text = await eventually(frame)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    rows = [line.split()[0] for line in lines if line.startswith(("hog ", "mild "))]
    assert rows[:2] == ["hog", "mild"]
    assert "4/4" in text
    assert "in line; all sequences are taken" in text


def test_top_as_json_is_ledger_and_queue(flooded: Gateway) -> None:
    done = run(flooded, "--json")
    told = msgspec.json.decode(done.output, type=dict[str, msgspec.Raw])
    assert msgspec.json.decode(told["ledger"], type=report.Ledger).schema == report.SCHEMA
    assert msgspec.json.decode(told["queue"], type=report.Queue).pools[0].name == "inspection"


@pytest.mark.parametrize(
    ("options", "key", "said"),
    [
        (["--once"], "x", "401"),
        (["--once", "--sort", "size"], ADMIN, "expected one of service, waiting, demand, name"),
        (["--once"], "", "FAIRGATE_ADMIN_KEY"),
    ],
)
def test_top_says_what_is_wrong(flooded: Gateway, options, key, said) -> None:
    done = run(flooded, *options, key=key)
    assert done.exit_code != 0
    assert said in " ".join(done.output.replace("│", " ").split())
