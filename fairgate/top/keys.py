"""Single key presses from a terminal."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from typing import Any, Self


class Keys:
    """Reads keys as they are pressed, without echo, until the context ends."""

    def __init__(self) -> None:
        self._before: Any = None
        """What termios gave: a list of numbers and lists."""

    def __enter__(self) -> Self:
        if sys.stdin.isatty():
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def pressed(self, wait_s: float) -> str:
        """The next key; empty if none is pressed within ``wait_s`` seconds."""
        if self._before is None:
            select.select([], [], [], wait_s)
            return ""
        ready, _, _ = select.select([sys.stdin], [], [], wait_s)
        return os.read(sys.stdin.fileno(), 16).decode("latin-1") if ready else ""
