"""``loadgen simulate --config``: what fairness would buy on a site of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loadgen.cli import app

TRACE = "synthetic:rate=5,duration=60,prompt=300,output=80,cv=2"
SITE = """
tenants:
  acme: {weight: 3, apps: [chat]}
  globex: {apps: [chat, code], limits: {rpm: 20}, keys: [{sha256: "KEY"}]}
apps: {chat: {}, code: {}}
pools:
  main:
    policy: {preset: vtc, output_weight: 4}
    lanes:
      small: {price: 2, engines: [{type: http, url: "http://127.0.0.1:9", max_num_seqs: 4}]}
""".replace("KEY", "ab" * 32)


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["simulate", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def site(tmp_path: Path, text: str = SITE) -> str:
    path = tmp_path / "fairgate.yaml"
    path.write_text(text)
    return str(path)


def simulate(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    file = tmp_path / "runs.json"
    run(*arguments, "--seeds", "1", "--jobs", "1", "--calls", "200", "--json", str(file))
    runs: list[dict[str, Any]] = json.loads(file.read_text())["runs"]
    return runs


def test_a_trace_is_spread_over_the_tenants_of_the_file(tmp_path: Path) -> None:
    *presets, own = simulate(
        tmp_path, TRACE, "--config", site(tmp_path), "--policy", "all", "--load", "3",
        "--shares", "acme=1,globex=3",
    )  # fmt: skip
    assert [r["policy"] for r in presets] == ["fcfs", "rpm", "vtc", "overload-only", "fairserve"]
    assert own["policy"] == "config"
    for one in (*presets, own):
        asked = {name: tenant["requests"] for name, tenant in one["tenants"].items()}
        assert asked.keys() == {"acme", "globex"}
        assert asked["globex"] > asked["acme"]
    by_policy = {r["policy"]: r for r in presets}
    # vtc takes the weights of tokens from the file, so it is the file's own policy
    assert by_policy["vtc"]["tenants"] == own["tenants"]
    # the limit of the file bites, where a policy has limits, and nobody else has one
    assert by_policy["rpm"]["throttled_by_cause"].keys() == {"tenant.rpm"}
    assert by_policy["rpm"]["tenants"]["acme"]["throttled"] == 0
    assert own["throttled_by_cause"] == {}
    waits = {
        policy: by_policy[policy]["tenants"]["acme"]["queue_ms"]["p90"]
        for policy in ("fcfs", "fairserve")
    }
    assert waits["fairserve"] < waits["fcfs"]  # a weight of 3 and a quarter of the load


def test_a_scenario_runs_on_the_lanes_of_the_file(tmp_path: Path) -> None:
    (few,) = simulate(tmp_path, "weights", "--config", site(tmp_path), "--policy", "vtc")
    (more,) = simulate(
        tmp_path, "weights", "--policy", "vtc", "--profile", "h100-70b",
        "--config", site(tmp_path, SITE.replace("max_num_seqs: 4", "max_num_seqs: 64")),
    )  # fmt: skip
    assert few["tenants"].keys() == {"weight-1", "weight-2", "weight-3", "weight-4"}
    assert more["calls_per_s"] > 4 * few["calls_per_s"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.yaml",), "nowhere.yaml: cannot be read"),
        (("{site}", "--shares", "initech=1"), "initech: not a tenant"),
        (("{site}", "--shares", "acme=no"), "acme: expected a number > 0, got 'no'"),
        (("{site}", "--pool", "other"), "--pool other: not a pool"),
        (("{site}", "--profile", "tpu"), "--profile tpu: not a profile"),
        (("{site}", "mixed-lanes"), "mixed-lanes: has lanes of its own"),
        (("{site}", "code=" + TRACE), "tenants.globex"),
    ],
)
def test_what_makes_no_sense_is_said(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    # globex may name the apps chat and fax only, so that a trace of code is not for it
    text = SITE.replace("[chat, code]", "[chat, fax]").replace("code: {}", "code: {}, fax: {}")
    filled = [argument.replace("{site}", site(tmp_path, text)) for argument in arguments]
    assert said in run(TRACE, "--config", *filled, code=2).replace("\n", " ")


def test_a_site_that_says_too_little_is_refused(tmp_path: Path) -> None:
    unknown_speed = site(tmp_path, SITE.replace("small:", "llama:"))
    assert "lane llama: tell how fast" in run(TRACE, "--config", unknown_speed, code=2)
    nobody = site(tmp_path, SITE[SITE.index("apps: {chat: {}") :])
    assert "tenants: expected at least one" in run(TRACE, "--config", nobody, code=2)
    second = SITE + SITE[SITE.index("  main:") :].replace("main", "next").replace("small", "tiny")
    assert "choose one with --pool" in run(TRACE, "--config", site(tmp_path, second), code=2)


def test_options_of_a_site_need_one() -> None:
    assert "--shares acme=1: says something of --config" in run(
        "weights", "--shares", "acme=1", code=2
    )
