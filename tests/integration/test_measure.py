"""``loadgen measure``: a real gateway over simulated engines, beside the simulation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from typer.testing import CliRunner

from loadgen.cli import app

PATIENCE_S = 60.0
QUICK = {"type": "simulated", "profile": "cpu-small", "speed": 10, "max_num_seqs": 4}


def measure(*arguments: object, codes: tuple[int, ...] = (2,)) -> str:
    """Its output in this process; for what ends before anything is started."""
    result = CliRunner().invoke(app, ["measure", *map(str, arguments)])
    assert result.exit_code in codes, result.output
    return result.output


def engines(folder: Path, **fields: Any) -> Path:
    """A configuration of one lane of simulated engines, ten times as quick as a laptop's."""
    path = folder / "engines.yaml"
    lane = {"engines": [{**QUICK, **fields}]}
    path.write_text(yaml.safe_dump({"pools": {"main": {"lanes": {"quick": lane}}}}))
    return path


def start(*arguments: object) -> subprocess.Popen[str]:
    argv = ["-c", "from loadgen.cli import main; main()", "measure", *map(str, arguments)]
    return subprocess.Popen(
        [sys.executable, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(*arguments: object, codes: tuple[int, ...] = (0,)) -> tuple[str, str]:
    process = start(*arguments)
    out, err = process.communicate(timeout=3 * PATIENCE_S)
    assert process.returncode in codes, out + err
    assert "Traceback" not in err, err
    return out, err


def mentioning(folder: Path) -> list[int]:
    """Processes whose command line names ``folder``, where a measurement keeps its logs."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            if str(folder).encode() in line:
                found.append(int(entry.name))
    return found


def test_real_and_simulated_runs_stand_side_by_side(tmp_path: Path) -> None:
    report = tmp_path / "report"
    # 1: a busy machine may show an order of its own, which is not what is tested here
    out, err = run(
        "weights", "--engines", engines(tmp_path), "--policy", "fcfs,fairserve",
        "--calls", 60, "--report", report, "--json", tmp_path / "runs.json", codes=(0, 1),
    )  # fmt: skip
    written = json.loads((tmp_path / "runs.json").read_text())
    assert written == json.loads((report / "report.json").read_text())
    assert [(r["scenario"], r["real"], r["policy"], r["seed"]) for r in written["runs"]] == [
        ("weights", real, policy, 0) for real in (True, False) for policy in ("fcfs", "fairserve")
    ]
    for one in written["runs"]:
        assert sum(tenant["requests"] for tenant in one["tenants"].values()) == 60
        assert sum(tenant["completed"] for tenant in one["tenants"].values()) > 0
        assert one["throttled_by_cause"].keys() <= {"queue_timeout"}
        assert one["share_error"] is not None
        assert one["capacity_use"] > 0.1
        assert (one["idle_while_waiting_s"] is None) == one["real"]
    (calibration,) = written["calibrations"]
    assert calibration["speed"] == pytest.approx(
        calibration["calls_per_s"] / calibration["profile_calls_per_s"]
    )
    assert calibration["calls_per_s_after"] > 0
    pairs = {o["agreeing"] + o["undecided"] + len(o["disagreeing"]) for o in written["orders"]}
    assert pairs == {1}  # fcfs and fairserve
    page = (report / "report.html").read_text()
    ET.fromstring(page.removeprefix("<!doctype html>").replace('<meta charset="utf-8">', ""))
    for place in (out, page, (report / "report.md").read_text()):
        assert "fcfs real" in place
        assert "fairserve simulated" in place
        assert "the order of the policies" in place
    assert "1/1: weights" in err
    assert mentioning(tmp_path) == []


def test_an_abuser_is_measured_beside_a_run_without_it(tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    run(
        "abuser", "--engines", engines(tmp_path, speed=40), "--policy", "vtc", "--calls", 50,
        "--json", file, "--report", tmp_path / "report",
    )  # fmt: skip
    runs = json.loads(file.read_text())["runs"]
    assert [one["real"] for one in runs] == [True, False]
    for one in runs:
        assert one["tenants"]["abuser"]["requests"] > 50
        assert one["victim_slowdown"] is not None
    output = CliRunner().invoke(app, ["compare", str(file)]).output
    assert "runs: abuser, vtc, real" in output
    assert "runs: abuser, vtc " in output


def test_what_is_interrupted_leaves_nothing_running(tmp_path: Path) -> None:
    process = start(
        "weights", "--engines", engines(tmp_path, speed=0.1), "--report", tmp_path / "report"
    )
    log = tmp_path / "report" / "logs" / "gateway.log"
    until = time.monotonic() + PATIENCE_S
    while not (log.exists() and "ready http" in log.read_text()):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    assert mentioning(tmp_path)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert mentioning(tmp_path) == []


def test_an_engine_that_does_not_answer_is_named(tmp_path: Path) -> None:
    file = tmp_path / "dead.yaml"
    lane = {"engines": [{"type": "http", "url": "http://127.0.0.1:9"}]}
    file.write_text(yaml.safe_dump({"pools": {"main": {"lanes": {"quick": lane}}}}))
    _, err = run("weights", "--engines", file, "--report", tmp_path / "report", codes=(3,))
    assert "http://127.0.0.1:9 of lane quick does not answer" in err


def test_calls_that_are_too_long_for_the_engines_are_refused(tmp_path: Path) -> None:
    file = engines(tmp_path, kv_cache_tokens=2048)
    _, err = run(
        "heavy-app", "--engines", file, "--scale-tokens", "1", "--report", tmp_path / "report",
        codes=(2,),
    )  # fmt: skip
    assert "--scale-tokens 1: the longest call of heavy-app has" in err
    assert "take 2048" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "nonsense: not a scenario; they are two-users"),
        (["mixed-lanes"], "mixed-lanes: has the lanes small, large; one can be measured"),
        (["replicas"], "replicas: has 4 gateways; one can be measured"),
        (["weights", "--policy", "lifo"], "--policy lifo: not a policy"),
        (["weights", "--engines", "/nowhere.yaml"], "--engines /nowhere.yaml: expected"),
        (["weights", "--engines", "sim", "--lane", "big"], "--lane big: not a lane of sim"),
        (["weights", "--engines", "sim", "--profile", "x"], "--profile x: not a profile"),
        (["weights", "--calls", "50", "--seconds", "9"], "--calls and --seconds"),
    ],
)
def test_wrong_options_are_named_before_anything_starts(arguments: list[str], message: str) -> None:
    assert message in measure(*arguments)
