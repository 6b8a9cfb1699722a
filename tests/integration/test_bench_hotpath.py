"""The benchmark of the hot path, tiny: every subject serves, and every figure is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_subject_is_measured_and_compared(tmp_path: Path) -> None:
    file = tmp_path / "hotpath.json"
    options = ("--requests", "100", "--rounds", "1", "--connections", "4", "--json", str(file))
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.hotpath", *options],
        cwd=ROOT, capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    measured = {one["name"]: one for one in json.loads(file.read_text())["subjects"]}
    against = {name: one["against"] for name, one in measured.items()}
    assert against == {
        "null app": None,
        "exempt path": "null app",
        "mounted": "null app",
        "bare proxy": None,
        "gateway": "bare proxy",
    }
    assert all(one["per_s"] > 0 and one["rss_mib"] > 0 for one in measured.values())
    assert measured["mounted"]["store_us"] > 0
    assert "bare proxy" in done.stdout
