"""``python -m tests.bench``: every part runs whole, in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.hotpath import measure as hotpath
from tests.bench.hotpath.cases import KB_1
from tests.bench.hotpath.subjects import Subject

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.bench", "--no-peers", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    done = bench(
        "--cases", "small,alone,1kb,200kb,stream40,paced40,stream4", "--rounds", "1",
        "--seconds", "0.2",
        "--largest", "10", "--waiting", "20", "--output", str(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "done when" in done.stdout
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_every_subject_is_measured_and_compared(report: dict[str, Any]) -> None:
    against = {r["subject"]: r["against"] for r in report["rows"] if r["case"] == "small"}
    assert against == {
        "upstream alone": None,
        "null app": None,
        "exempt path": "null app",
        "middleware": "null app",
        "bare proxy": None,
        "gateway": "bare proxy",
        "gateway, 8 at once": "bare proxy",
        "gateway, 2 workers": "bare proxy",
    }
    turns = {r["subject"]: r["turn"] for r in report["rows"] if r["case"] == "small"}
    assert all(turn["cpu_us"] > 0 and turn["rss_mib"] > 1 for turn in turns.values())
    assert turns["gateway"]["store_us"] > turns["bare proxy"]["store_us"]


def test_streams_come_whole_through_every_proxy(report: dict[str, Any]) -> None:
    streams = [row for row in report["rows"] if row["case"] == "stream40"]
    assert {row["subject"] for row in streams} == {
        "upstream alone", "bare proxy", "gateway", "gateway, 8 at once", "gateway, 2 workers"
    }  # fmt: skip
    for row in streams:
        # 40 chunks, the one that says why it ended, and [DONE].
        assert row["turn"]["events"] == 42 * row["turn"]["requests"], row["subject"]


def test_capacity_that_came_free_is_used_again_and_not_twice(report: dict[str, Any]) -> None:
    contention = report["contention"]["gateway"]
    assert contention["most_at_once"] == contention["sequences"]
    assert 0 < contention["grant_p50_ms"] <= contention["grant_p99_ms"]
    assert 0 < contention["idle_share"] < 1


def test_every_goal_is_told(report: dict[str, Any]) -> None:
    assert [goal["what"] for goal in report["goals"]] == [
        "CPU of gateway / bare proxy", "p50 added by gateway, 1 connection",
        "p99 added by gateway, 1 connection", "CPU added by gateway, 200 KB over 1 KB",
        "chunks/s per core / bare of gateway, 40",
        "first chunk added by gateway, 1 connection",
        "first chunk added by gateway, at a fixed rate",
        "first chunk added by gateway, closed loop",
        "CPU added by middleware", "grant latency of gateway, p50", "grant latency of gateway, p99",
        "capacity idle of gateway while somebody waits",
        "store CPU, most / fewest users", "store CPU, most / fewest requests",
        "store CPU, most / fewest tenants",
    ]  # fmt: skip


def test_what_it_does_not_know_is_refused() -> None:
    done = bench("--cases", "small,huge")
    assert done.returncode == 2
    assert "--cases huge" in done.stderr


async def test_a_peer_that_does_not_start_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Subject(name="broken", command=("false",), peer=True)
    monkeypatch.setattr(hotpath, "peers", lambda *_: [broken])
    said: list[str] = []
    turns = await hotpath.measure(hotpath.Plan([KB_1], rounds=1, seconds=0.1), said.append)
    assert "gateway" in turns["1kb"]
    assert "broken" not in turns["1kb"]
    assert any(line.startswith("broken is left out: ") for line in said)
