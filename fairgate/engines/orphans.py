"""Kill processes as soon as the one that started them has ended, however that happened.

``python -IS orphans.py PID...`` with standard input a pipe that the gateway holds open: SIGKILL
included, every way in which the gateway can end closes it. vLLM's engine processes outlive a
killed parent; their own workers do not. Standard library only, so that it starts in milliseconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def not_orphaned(pids: Sequence[int]) -> Iterator[None]:
    """While the context lasts, the processes ``pids`` end with this one. Raises ``OSError``."""
    watcher = subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, "-IS", __file__, *map(str, pids)],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env=dict(os.environ),  # a copy: vLLM's threads may change the real one while it starts
    )
    try:
        yield
    finally:
        watcher.kill()
        watcher.communicate()


def main(pids: Sequence[int]) -> None:
    """Wait for the end of standard input, then kill what is left of ``pids``."""
    while os.read(0, 4096):
        pass
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
