"""``python -m tests.bench.micro``: every microbenchmark runs once, untimed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_microbenchmark_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.micro", "--benchmark-disable", "-k", "not 100000"],
        cwd=ROOT, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "32 passed" in done.stdout
