"""``fairgate top``: the pools of a running gateway in the terminal, live."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Annotated

import msgspec
import typer

from fairgate.errors import FairgateError
from fairgate.inspection.report import Ledger, Queue
from fairgate.top.keys import Keys
from fairgate.top.screen import SORTS, Screen, Sort
from fairgate.top.source import Source

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def top(
    url: Annotated[str, typer.Option(help="Of a gateway.")] = "http://127.0.0.1:8080",
    key: Annotated[
        str, typer.Option(envvar="FAIRGATE_ADMIN_KEY", help="An admin key of the gateway.")
    ] = "",
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 1.0,
    sort: Annotated[str, typer.Option(help=f"By {', '.join(SORTS)}.")] = "service",
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print ledger and queue as one JSON object and end.")
    ] = False,
) -> None:
    """Show lanes, tenants and who waits, as all replicas see them.

    Keys: s, w, d, n sort by service, waiting, demand, name; q ends.
    """
    if sort not in SORTS:
        raise typer.BadParameter(f"expected one of {', '.join(SORTS)}, got {sort!r}")
    if not key:
        raise typer.BadParameter("give --key KEY or set FAIRGATE_ADMIN_KEY", param_hint="--key")
    source = Source(url, key)
    try:
        if as_json:
            typer.echo(msgspec.json.encode(_both(*source.look())))
        elif once or not sys.stdout.isatty():
            typer.echo(Screen(SORTS[sort]).frame(*source.look(), *_size(), colours=_colours()))
        else:
            _live(source, SORTS[sort], interval)
    except FairgateError as error:
        typer.echo(f"fairgate: {error}", err=True)
        raise typer.Exit(1) from error


def _both(ledger: Ledger, queue: Queue) -> dict[str, Ledger | Queue]:
    return {"ledger": ledger, "queue": queue}


def _size() -> tuple[int, int]:
    """Columns and lines; plenty of lines where nobody scrolls."""
    if not sys.stdout.isatty():
        return int(os.environ.get("COLUMNS", "110")), 1000
    size = os.get_terminal_size()
    return size.columns, size.lines


def _colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _live(source: Source, sort: Sort, interval: float) -> None:
    screen = Screen(sort)
    _write(_ENTER)
    try:
        with Keys() as keys:
            while True:
                _write(_drawn(source, screen))
                if not _obey(keys, screen, interval, lambda: _write(_drawn(source, screen))):
                    return
    except KeyboardInterrupt:
        pass
    finally:
        _write(_LEAVE)


def _drawn(source: Source, screen: Screen) -> str:
    """A whole frame from the upper left corner; what stood there before is wiped line by line."""
    try:
        text = screen.frame(*source.look(), *_size(), colours=_colours())
    except FairgateError as error:
        text = f"{error}\ntrying again ..."
    return "\x1b[H" + text.replace("\n", "\x1b[K\r\n") + "\x1b[K\x1b[J"


def _obey(keys: Keys, screen: Screen, interval: float, redraw: Callable[[], None]) -> bool:
    """Follow keys for ``interval`` seconds; ``False``: to end."""
    until = time.monotonic() + interval
    while (left := until - time.monotonic()) > 0:
        pressed = keys.pressed(left)
        if pressed in ("q", "\x03"):
            return False
        if screen.press(pressed):
            redraw()
    return True


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
