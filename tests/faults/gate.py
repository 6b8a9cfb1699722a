"""``python -m tests.faults.gate FILE serve …``: ``fairgate``, which on SIGUSR2 writes down in FILE
the names of all tasks that its event loop has."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from fairgate.cli import main


def _write_tasks(file: Path) -> None:
    tasks = asyncio.all_tasks(asyncio.get_running_loop())
    names = sorted(getattr(task.get_coro(), "__qualname__", "?") for task in tasks)
    new = file.with_suffix(".new")
    new.write_text(json.dumps(names))
    new.replace(file)


if __name__ == "__main__":
    looks = Path(sys.argv.pop(1))
    signal.signal(signal.SIGUSR2, lambda *_: _write_tasks(looks))
    main()
