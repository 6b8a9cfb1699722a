"""What the supervisor of workers makes of the configuration, and workers of their metrics."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fairgate.config import Config, HttpEngine, reading
from fairgate.errors import ConfigError
from fairgate.workers.address import bound, reserved
from fairgate.workers.orders import Begin, Order, Reload, Stop, packed, read_orders
from fairgate.workers.scrape import merged
from fairgate.workers.shared import build_spawned, check_shareable, shared_config


def made(*engines: dict[str, Any]) -> Config:
    return reading.convert(
        {
            "tenants": {"acme": {"keys": [{"sha256": "a" * 64}], "user_limits": {"rpm": 3}}},
            "pools": {"main": {"policy": "vtc", "lanes": {"small": {"engines": list(engines)}}}},
        },
        source="test",
    )


async def test_orders_arrive_as_they_were_sent():
    config = made({"type": "http", "url": "http://engine:1", "api_key": "secret"})
    sent: list[Order] = [Begin(number=3, config=config, folder="/f"), Reload(config), Stop()]
    reader = asyncio.StreamReader()
    reader.feed_data(b"".join(map(packed, sent)))
    reader.feed_data(packed(Stop())[:-1])  # cut off: the supervisor was killed
    reader.feed_eof()
    assert [order async for order in read_orders(reader)] == sent


async def test_workers_find_store_and_spawned_engines_by_address(tmp_path: Path):
    simulated = {"type": "simulated", "max_num_seqs": 5, "kv_cache_tokens": 1000}
    http = {"type": "http", "url": "http://engine:1"}
    config = made(http, simulated)
    async with aiohttp.ClientSession() as session:
        engines = build_spawned(config, session, tmp_path)
    (spawned,) = engines.values()
    shared = shared_config(config, "unix:///store", engines)
    assert shared.store.url == "unix:///store"
    assert shared.tenants == config.tenants
    assert shared.pools["main"].lanes["small"].engines == (
        HttpEngine(url="http://engine:1"),
        HttpEngine(
            url=spawned.url, name="small-1", max_num_seqs=5, kv_cache_tokens=1000, priority=True
        ),
    )


def test_engines_inside_a_process_cannot_be_shared():
    with pytest.raises(ConfigError, match=r"engines\[0\]: type 'vllm-inprocess'"):
        check_shareable(made({"type": "vllm-inprocess", "model": "m"}))


REQUESTS = """# HELP fairgate_requests_total Requests.
# TYPE fairgate_requests_total counter
fairgate_requests_total{{tenant="acme"}} {requests}
# HELP fairgate_lane_waiting_requests In line.
# TYPE fairgate_lane_waiting_requests gauge
fairgate_lane_waiting_requests{{lane="small"}} {waiting}
# HELP fairgate_queue_seconds Time in line.
# TYPE fairgate_queue_seconds histogram
fairgate_queue_seconds_bucket{{le="+Inf"}} {requests}
fairgate_queue_seconds_count {requests}
fairgate_queue_seconds_sum 0.5
"""


def test_what_workers_count_is_told_apart_and_the_pool_told_once():
    texts = {n: REQUESTS.format(requests=10 + n, waiting=100 + n) for n in (0, 1)}
    text = merged(texts, own=1).decode()
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["fairgate_requests_total", (("tenant", "acme"), ("worker", "0"))] == 10
    assert samples["fairgate_requests_total", (("tenant", "acme"), ("worker", "1"))] == 11
    assert samples["fairgate_queue_seconds_count", (("worker", "0"),)] == 10
    waiting = {k: v for k, v in samples.items() if k[0] == "fairgate_lane_waiting_requests"}
    assert waiting == {("fairgate_lane_waiting_requests", (("lane", "small"),)): 101}
    assert text.count("# TYPE fairgate_requests_total counter") == 1


def test_a_reserved_address_is_shared_among_us_and_refused_where_others_listen():
    with reserved("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with bound("127.0.0.1", port, shared=True) as one:
            one.listen()
            with bound("127.0.0.1", port, shared=True) as two:
                two.listen()
            with pytest.raises(OSError, match="in use"):
                reserved("127.0.0.1", port)
