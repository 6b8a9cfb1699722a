"""``loadgen profile``: the timing of engines from what they served."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from support.gateway import config, engine, gateway, key_of, lane
from typer.testing import CliRunner

from fairgate.config import SimulatedEngine
from fairgate.engines.simulated.timing import PROFILES, TimingProfile
from loadgen.cli import app
from loadgen.records import Chain, Outcome
from loadgen.report import read_record, write_record
from loadgen.simulation.drawing import Sender, around, plan_of, singles
from loadgen.simulation.driver import simulate
from loadgen.simulation.policies import PRESETS
from loadgen.simulation.workload import Workload, site


@pytest.fixture(scope="module")
def served(valkey_server: str) -> list[Outcome]:
    """Calls of a cpu-small engine: a few alone, then more and more at once, of many lengths."""
    random = Random(0)
    sender = Sender("acme", "u", "chat")
    lengths = around(300, 60, 0.8)
    starts = [30.0 * k for k in range(10)]
    at_s = 400.0
    for rate in (0.2, 0.5, 1.0, 2.0):
        for _ in range(60):
            at_s += random.expovariate(rate)
            starts.append(at_s)
    plan: Sequence[Chain] = plan_of(singles(sender, starts, lengths, random))
    engine = SimulatedEngine(profile="cpu-small", max_num_seqs=16, kv_cache_tokens=100_000)
    workload = Workload(config=site({"acme": 1.0}, ["chat"], [engine], queue_s=3600.0), plan=plan)
    return simulate(
        workload, PRESETS["fcfs"], valkey_server.removeprefix("unix://"), seed=0
    ).outcomes


def loadgen(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def run(*arguments: str | Path, code: int = 0) -> str:
    return loadgen("profile", *arguments, code=code)


def test_a_known_engine_is_found_again(tmp_path: Path, served: list[Outcome]) -> None:
    write_record(served, tmp_path / "record.jsonl")
    output = run(tmp_path / "record.jsonl", "--lane", "main")
    found = re.search(r"TimingProfile\(([\d_, ]+)\)", output)
    assert found is not None
    fitted = TimingProfile(*(int(number) for number in found[1].split(",")))
    real = PROFILES["cpu-small"]
    for prefill, decoding, kv in ((0, 1, 300), (0, 8, 2400), (0, 16, 5000), (500, 0, 500)):
        expected = real.step_ns(prefill, decoding, kv)
        assert fitted.step_ns(prefill, decoding, kv) == pytest.approx(expected, rel=0.1)
    assert "alone" in output


def test_what_tells_too_little_is_refused(tmp_path: Path, served: list[Outcome]) -> None:
    record = tmp_path / "record.jsonl"
    write_record(served[:20], record)
    assert "expected at least 30 completed calls" in run(record, code=2)
    assert "the lanes are main" in run(record, "--lane", "large", code=2)
    record.write_text("{}\n")
    assert "not a record of replay" in run(record, code=2)


def test_the_record_of_a_replay_through_a_gateway_gives_a_profile(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    trace = "synthetic:rate=16,duration=3,prompt=40,output=16,spread=0.6,cv=2"
    with (
        engine(tmp_path, "--speed", "4") as first,
        engine(tmp_path, "--speed", "4") as second,
        gateway(tmp_path / "gateway", config({"small": lane(first.url, second.url)})) as it,
    ):
        to = ("--target", it.url, "--tenants", f"acme={key_of('acme')}", "--model", "small")
        loadgen("replay", trace, *to, "--record", record)
    calls = read_record(record)
    assert {o.engine for o in calls} == {"small-0", "small-1"}
    long_enough = [o for o in calls if o.result == "completed" and o.completion_tokens > 4]
    assert len(long_enough) == len([o for o in calls if o.wanted_output_tokens > 4]) >= 30
    output = run(record)
    assert re.search(r"TimingProfile\([\d_]+(, [\d_]+){3}\)", output)
    assert f"fitted to {len(long_enough)} calls" in output
