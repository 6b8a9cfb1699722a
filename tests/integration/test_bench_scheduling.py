"""``python -m tests.bench.scheduling``: the benchmark runs whole, in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.bench.scheduling", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_every_sweep_keeps_its_population_waiting_and_is_plotted(tmp_path: Path) -> None:
    policy = "fairserve"
    options = ("--largest", "100", "--pairs", "32", "--lanes", "2", "--policies", policy)
    done = bench(*options, "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    points = json.loads((tmp_path / "scheduling.json").read_text())["points"]
    waiting = {(p["sweep"], p["policy"], p["n"]): p["waiting"] for p in points}
    for n in (10, 100):
        assert waiting["users", policy, n] == waiting["requests", policy, n] == n
        assert waiting["tenants", policy, n] == 2 * n
        assert waiting["idle", policy, n] == 100
        assert waiting["tenants-headroom", policy, n] >= 2 * n
    assert all(p[f"{name}_us"] > 0 for p in points for name in ("admit", "settle", "cancel"))
    html = (tmp_path / "scheduling.html").read_text()
    charts = html.split("<svg ")[1:]
    assert len(charts) == 4 * len({p["sweep"] for p in points})
    for chart in charts:
        ET.fromstring("<svg " + chart.split("</svg>")[0] + "</svg>")


def test_what_it_does_not_know_is_refused() -> None:
    done = bench("--policies", "fairserve,lifo")
    assert done.returncode == 2
    assert "--policies lifo" in done.stderr
