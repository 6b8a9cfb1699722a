"""A real Prometheus scrapes two replicas: dashboard, recording rules and alerts work on it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
import yaml
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
    tenant,
)
from support.prometheus import TOOL, Prometheus, prometheus

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.skipif(TOOL is None, reason="needs Debian's package prometheus"),
]

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus"
SMALL, LARGE = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"


class Site(NamedTuple):
    prometheus: Prometheus
    gates: list[Gateway]
    engines: list[SimulatedEngine]


def settings(store: str, small: str, large: str) -> dict[str, Any]:
    tenants = {
        "acme": tenant("acme"),
        "flood": tenant("flood", weight=2),
        "spent": tenant("spent", limits={"daily_tokens": 1}),
    }
    lanes = {
        "small": lane(small, max_num_seqs=2) | {"model": SMALL},
        "large": lane(large, max_num_seqs=2, price=8) | {"model": LARGE},
    }
    made = config(lanes, store=store, tenants=tenants, pool="seen")
    made["pools"]["seen"] |= {
        "best_of": {"samples": {"small": 2}},
        "cascade": {"first": "small", "then": "large", "below": 0.0},
        "routing": {"router": "hybrid", "quality": 0.0, "checks": ["finished"]}
        | {"drift": {"window": 2}, "sticky": False},
    }
    return made


def at_once(rules: dict[str, Any]) -> dict[str, Any]:
    """The same alerts, but none waits before it fires."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    return rules


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, valkey_server: str) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("prometheus")
    options = ("--speed", "8", "--max-num-seqs", "2")
    with ExitStack() as stack:
        engines = [
            stack.enter_context(engine(folder, *options, "--model", model))
            for model in (SMALL, LARGE)
        ]
        made = settings(valkey_server, *(it.url for it in engines))
        gates = [stack.enter_context(gateway(folder / str(n), made)) for n in (1, 2)]
        rules = {
            "recording.yaml": yaml.safe_load((RULES / "recording.yaml").read_text()),
            "alerts.yaml": at_once(yaml.safe_load((RULES / "alerts.yaml").read_text())),
        }
        targets = [gate.url.removeprefix("http://") for gate in gates]
        it = stack.enter_context(prometheus(folder / "prometheus", targets, rules))
        yield Site(it, gates, engines)


async def flood(gates: list[Gateway]) -> None:
    """A few requests of every kind, at both replicas."""
    async with aiohttp.ClientSession() as http:

        async def post(gate: Gateway, who: str, model: str, n: int) -> int:
            body = chat(f"Tell me about fern {n}.", max_tokens=4) | {"model": model}
            url = f"{gate.url}/v1/chat/completions"
            named = bearer(who, x_fairgate_interaction=f"{who}-{n % 3}")
            async with http.post(url, json=body, headers=named) as answer:
                await answer.read()
                return answer.status

        asked = [
            post(gate, who, model, n)
            for n in range(4)
            for gate in gates
            for who, model in (("acme", "auto"), ("flood", "large"), ("spent", "small"))
        ]
        statuses = await asyncio.gather(*asked)
    assert sorted(set(statuses)) == [200, 429]


async def flood_on(gates: list[Gateway]) -> None:
    while True:
        await flood(gates)


def queries() -> list[tuple[str, str]]:
    """Title and query of every panel, as Grafana sends them with all chosen."""
    panels = json.loads((DEPLOY / "grafana" / "fairgate.json").read_text())["panels"]
    return [
        (panel["title"], _filled(target["expr"]))
        for panel in panels
        for target in panel.get("targets", ())
    ]


def _filled(expression: str) -> str:
    for name, value in {"$__rate_interval": "10s", "$pool": ".*", "$tenant": ".*"}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


async def test_everything_that_is_asked_is_told_and_what_breaks_is_reported(site):
    """In this order: the last step ends a replica and an engine."""
    it = site.prometheus
    await eventually(lambda: len(it.query("up == 1")) == 2)
    await flood(site.gates)
    await flood(site.gates)  # what a rate needs: series that were there before

    missing = queries()
    assert len(missing) > 35

    def all_told() -> bool:
        missing[:] = [(title, query) for title, query in missing if not it.query(query)]
        return not missing

    load = asyncio.create_task(flood_on(site.gates))  # some tell only of what happens just now
    try:
        await eventually(all_told)
    except AssertionError:
        raise AssertionError(f"no data for {missing}") from None
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)

    rules = {rule["name"]: rule for group in groups(it) for rule in group["rules"]}
    assert {rule["health"] for rule in rules.values()} == {"ok"}
    recorded = [name for name, rule in rules.items() if rule["type"] == "recording"]
    await eventually(lambda: all(it.query(name) for name in recorded))
    assert "FairgateDown" not in it.firing()
    assert "FairgateLaneDown" not in it.firing()

    await asyncio.to_thread(site.gates[1].stop)
    site.engines[1].kill()
    firing = await eventually(lambda: it.firing() if has_broken(it) else {})
    assert firing["FairgateDown"]["instance"] == site.gates[1].url.removeprefix("http://")
    assert firing["FairgateLaneDown"]["lane"] == "large"
    assert firing["FairgateEngineDown"]["engine"] == "large-0"


def groups(it: Prometheus) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = it.get("/api/v1/rules")["groups"]
    return found


def has_broken(it: Prometheus) -> bool:
    return {"FairgateDown", "FairgateLaneDown", "FairgateEngineDown"} <= set(it.firing())


def test_a_query_that_is_wrong_is_found(site):
    """So that the test above can fail."""
    with pytest.raises(urllib.error.HTTPError):
        site.prometheus.query("sum by (")
    assert site.prometheus.query("fairgate_no_such_metric") == []


@pytest.mark.parametrize("arguments", [
    ("check", "rules", "recording.yaml", "alerts.yaml"),
    ("check", "config", "prometheus.yaml"),
    ("test", "rules", "alerts_test.yaml"),
], ids=" ".join)  # fmt: skip
def test_promtool_agrees(arguments):
    assert TOOL is not None
    done = subprocess.run(
        [TOOL, *arguments], cwd=RULES, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_as_its_code_makes_it(tmp_path):
    code, made = DEPLOY / "grafana" / "build.py", tmp_path / "fairgate.json"
    (tmp_path / "build.py").write_text(code.read_text())
    subprocess.run([sys.executable, tmp_path / "build.py"], check=True, capture_output=True)
    assert made.read_text() == (DEPLOY / "grafana" / "fairgate.json").read_text()
