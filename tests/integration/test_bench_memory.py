"""``python -m tests.bench.memory``: the soak runs whole, in small, and sees what is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_nothing_of_requests_and_aborted_streams_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "memory.json"
    options = ("--requests", "400", "--aborted", "100", "--users", "5", "--output", str(file))
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.memory", *options],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    looks = json.loads(file.read_text())
    assert [looks[0]["after"], looks[-2]["after"], looks[-1]["after"]] == [
        "start", "100 aborted streams", "a rest"
    ]  # fmt: skip
    assert all(look["rss_mib"] > 1 and look["store_mib"] > 0.1 for look in looks)
    kinds = looks[-1]["kinds"]
    assert kinds["user"] <= 5 + 2  # the aborted ones and the first probe name none
    assert not {"request", "held", "waiting"} & set(kinds), "requests that ended are still there"
    assert "gateway RSS MiB" in done.stdout
