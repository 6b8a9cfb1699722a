"""Processes that must not outlive the one that started them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fairgate.engines.orphans import not_orphaned

PARENT = """
import subprocess, sys, time
from fairgate.engines.orphans import not_orphaned
child = subprocess.Popen(["sleep", "60"])
with not_orphaned([child.pid]):
    print(child.pid, flush=True)
    time.sleep(60)
"""


def runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(") ")[2][0] != "Z"


@contextmanager
def parent() -> Iterator[tuple[subprocess.Popen[str], int]]:
    it = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert it.stdout is not None
    try:
        yield it, int(it.stdout.readline())
    finally:
        it.kill()
        it.communicate()


def test_a_killed_parent_takes_them_along() -> None:
    with parent() as (it, child):
        assert runs(child)
        it.kill()
        it.wait()
        until = time.monotonic() + 10
        while runs(child):
            assert time.monotonic() < until
            time.sleep(0.01)


def test_the_end_of_the_context_leaves_them_alone() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        with not_orphaned([child.pid]):
            pass
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
