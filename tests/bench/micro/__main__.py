"""``python -m tests.bench.micro``: runs the microbenchmarks and compares with the run before."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HISTORY = Path("build/benchmarks")
_COLUMNS = "min,median,mean,stddev,rounds"


def main(options: list[str]) -> int:
    """Pytest's exit status; ``options`` are its further ones."""
    HISTORY.mkdir(parents=True, exist_ok=True)
    known = any(HISTORY.rglob("*.json"))
    return pytest.main([
        str(Path(__file__).parent), "-o", "python_files=bench_*.py", "-q",
        f"--benchmark-storage=file://{HISTORY}", "--benchmark-autosave",
        "--benchmark-group-by=group", f"--benchmark-columns={_COLUMNS}",
        *(["--benchmark-compare"] if known else []), *options,
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
