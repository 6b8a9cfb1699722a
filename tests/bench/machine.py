"""On what the figures were measured, and what else it was doing."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from tests.bench.hotpath.peers import versions


def describe() -> dict[str, object]:
    """Machine, versions and load averages now."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "instruction_counts": _counts_instructions(),
        "versions": {name: version(name) for name in ("uvicorn", "uvloop", "aiohttp", "redis")},
        "peers": versions(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _counts_instructions() -> bool:
    """Whether the machine would let ``perf`` count them; most virtual ones do not."""
    try:
        done = subprocess.run(
            ["perf", "stat", "-e", "instructions", "true"], capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return False
    return done.returncode == 0 and "not supported" not in done.stderr
