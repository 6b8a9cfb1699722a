"""``loadgen simulate`` and ``compare``: the shipped scripts on a real store, in virtual time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from support.ledger_driver import PREFIX, LedgerDriver
from typer.testing import CliRunner

from loadgen.cli import app
from loadgen.simulation.driver import HEAD_FITS

POLICIES = ("fcfs", "rpm", "vtc", "overload-only", "fairserve")


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def simulate(
    tmp_path: Path, *arguments: str, name: str = "runs", calls: int = 300
) -> list[dict[str, Any]]:
    path = tmp_path / f"{name}.json"
    always = ("--calls", str(calls), "--seeds", "1", "--jobs", "1", "--json", str(path))
    run("simulate", *arguments, *always)
    runs: list[dict[str, Any]] = json.loads(path.read_text())["runs"]
    return runs


@pytest.fixture(autouse=True)
def _no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # without traces beside it


def test_every_preset_runs_on_the_same_load_and_says_the_promised_things(tmp_path: Path) -> None:
    runs = simulate(tmp_path, "agents", "--policy", "all", "--load", "2")
    assert [r["policy"] for r in runs] == list(POLICIES)
    for r in runs:
        assert r["scenario"] == "agents"
        assert r["seed"] == 0
        assert r["idle_while_waiting_s"] == 0
        assert r["victim_slowdown"] is None
        assert set(r["tenants"]["team-0"]) >= {"requests", "completed", "throttled", "ttft_ms"}
        whole = r["interactions_completed"] + r["interactions_broken"] + r["interactions_refused"]
        assert whole == runs[0]["interactions_completed"] + runs[0]["interactions_broken"]
    by_policy = {r["policy"]: r for r in runs}
    assert by_policy["rpm"]["throttled_by_cause"]["user.rpm"] > 0
    assert by_policy["rpm"]["wasted_tokens"] > 0
    assert by_policy["fairserve"]["wasted_tokens"] == 0
    assert by_policy["fairserve"]["interactions_broken"] == 0


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        simulate(tmp_path, "azure-apps", "--policy", "fairserve,rpm", name=name)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_weights_are_kept_and_the_bound_holds(tmp_path: Path) -> None:
    fcfs, fair = simulate(tmp_path, "weights", "--policy", "fcfs,fairserve", calls=2400)
    assert fair["share_error"] < 0.1 < 1 < fcfs["share_error"]
    assert fair["bound_violations"] == 0
    assert fair["worst_difference"] < fcfs["worst_difference"]


def test_an_abuser_hurts_the_others_less(tmp_path: Path) -> None:
    fcfs, fair = simulate(tmp_path, "abuser", "--policy", "fcfs,fairserve")
    assert fair["victim_slowdown"] < 3 < 10 < fcfs["victim_slowdown"]


def test_the_head_start_of_running_interactions_finishes_more_of_them(tmp_path: Path) -> None:
    options = ("--policy", "fairserve,no-continuation-advantage")
    ours, without = simulate(tmp_path, "crowd", *options, calls=800)
    assert ours["interactions_per_s"] > 1.05 * without["interactions_per_s"]
    assert ours["interactions_in_slo"] > without["interactions_in_slo"]


def test_the_handicap_of_what_asks_for_more_finishes_more_under_overload(tmp_path: Path) -> None:
    options = ("--policy", "fairserve,no-handicap", "--load", "1.5")
    ours, without = simulate(tmp_path, "azure-apps", *options, calls=1000)
    assert ours["interactions_completed"] > without["interactions_completed"]
    assert ours["interactions_broken"] == ours["bound_violations"] == 0


def test_headroom_is_swept_and_plotted(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    options = ("--policy", "fairserve", "--headroom", "0,0.2", "--report", str(folder))
    none, some = simulate(tmp_path, "abuser", *options)
    assert [none["policy"], some["policy"]] == ["fairserve", "fairserve+20%"]
    assert [none["headroom"], some["headroom"]] == [0, 0.2]
    assert some["steady_tokens_per_s"] < none["steady_tokens_per_s"]
    assert "throughput lost, %" in (folder / "report.html").read_text()
    assert "--headroom 1" in run("simulate", "abuser", "--headroom", "1", code=2)


def test_gateways_that_share_a_ledger_are_as_fair_as_one(tmp_path: Path) -> None:
    (fair,) = simulate(tmp_path, "replicas", "--policy", "vtc", calls=600)
    assert fair["bound_violations"] == 0
    assert fair["backlogged_pairs"] > 0


def test_a_trace_of_ones_own(tmp_path: Path) -> None:
    trace = "synthetic:rate=5,duration=60,prompt=500,output=100,cv=2"
    (one,) = simulate(tmp_path, trace, "--policy", "fairserve", "--load", "1.2")
    assert len(one["tenants"]) == 6
    assert sum(t["completed"] for t in one["tenants"].values()) > 100


def test_the_report_is_whole_and_needs_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    simulate(tmp_path, "two-users", "--policy", "fcfs,fairserve", "--report", str(folder))
    html = (folder / "report.html").read_text()
    for outside in ("http://", "https://", "<script", "<link", "url("):
        assert outside not in html
    for chart in html.split("<svg ")[1:]:
        ET.fromstring("<svg " + chart.split("</svg>")[0] + "</svg>")
    assert "two-users: fairserve" in (folder / "report.md").read_text()
    assert json.loads((folder / "report.json").read_text())["runs"][1]["policy"] == "fairserve"


def test_compare_puts_simulations_beside_each_other(tmp_path: Path) -> None:
    simulate(tmp_path, "two-users", "--policy", "fcfs,vtc", name="a")
    page = tmp_path / "page.html"
    output = run("compare", str(tmp_path / "a.json"), str(tmp_path / "a.json"), "--html", str(page))
    assert output.count("a: two-users, vtc") == 2
    assert "<svg" in page.read_text()


def test_what_is_neither_scenario_nor_trace_is_refused(tmp_path: Path) -> None:
    assert "neither a scenario nor a file" in run("simulate", "nonsense", code=2)
    assert "not a policy" in run("simulate", "weights", "--policy", "lifo", code=2)
    (tmp_path / "x.json").write_text("[]")
    assert "x.json" in run("compare", str(tmp_path / "x.json"), code=2)


def test_capacity_that_is_left_idle_is_seen(valkey_server: str) -> None:
    driver = LedgerDriver(valkey_server)
    try:
        for number in range(3):
            driver.admit(f"r{number}")  # two run, one waits
        assert head_fits(driver) == 0
        driver.client.zincrby(f"{PREFIX}free:small", 1, "e0")  # as if a release had been missed
        assert head_fits(driver) == 1
    finally:
        driver.close()


def head_fits(driver: LedgerDriver) -> int:
    reply: int = driver.client.eval(HEAD_FITS.text.decode(), 1, f"{PREFIX}settings")
    return reply
