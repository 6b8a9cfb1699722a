"""``python -m tests.bench.growth``: the benchmark runs whole, in small."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_size_has_its_row() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.growth", "--engines", "1,40", "--tenants", "70,100"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines() if line.strip()]
    numbers = {
        row[0]: [float(it.replace(",", "")) for it in row] for row in rows if row[0][0].isdigit()
    }
    assert set(numbers) == {"1", "40", "70", "100"}
    assert numbers["40"][1] > numbers["1"][1], "more engines are more to tell"
    assert numbers["100"][1] > 50, "an account takes some bytes"
    assert all(value > 0 for row in (numbers["1"], numbers["40"]) for value in row)
