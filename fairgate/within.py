"""Time limits for blocks of many requests at once, for a tenth of the price of a timer each."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol

_STOOD_STILL_S = 0.5
SECOND_LOOK_S = 1.0
"""After which a limit is judged where this process stood still; see :func:`stood_still`."""


def stood_still(due: float, now: float) -> bool:
    """Whether a timer that was ``due`` then rings so late that this process must have stood still.

    Then its lateness says nothing of who was to be in time: a timer may ring before what came
    meanwhile is read (uvloop), or before whom it is for has seen that.
    """
    return now - due > _STOOD_STILL_S


class Late(Protocol):
    """What has a time limit."""

    def late(self) -> None:
        """The time is over."""


class Line:
    """Limits of the same length, which therefore end in the order in which they began: one timer
    of the event loop sees to all of them."""

    __slots__ = ("_timer", "_until", "loop", "seconds")

    def __init__(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self.seconds = seconds
        self.loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._until: dict[Late, float] = {}

    def start(self, who: Late) -> None:
        """Tell ``who`` when the time is over, unless :meth:`stop` comes first."""
        self._until[who] = until = self.loop.time() + self.seconds
        if self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self._ring, until)

    def stop(self, who: Late) -> None:
        """``who`` was in time."""
        self._until.pop(who, None)

    def _ring(self, due: float) -> None:
        if stood_still(due, self.loop.time()):
            self._timer = self.loop.call_later(SECOND_LOOK_S, self._look)
        else:
            self._look()

    def _look(self) -> None:
        self._timer = None
        now = self.loop.time()
        over: list[Late] = []
        for who, until in self._until.items():
            if until > now:
                self._timer = self.loop.call_later(until - now, self._ring, until)
                break
            over.append(who)
        for who in over:
            if self._until.pop(who, None) is not None:
                who.late()


class Deadlines:
    """The lines of one event loop, by length."""

    def __init__(self) -> None:
        self._lines: dict[float, Line] = {}

    def of(self, seconds: float) -> Line:
        """The line of limits of ``seconds``. There should be few lengths: lines stay."""
        line = self._lines.get(seconds)
        if line is None:
            line = self._lines[seconds] = Line(seconds, asyncio.get_running_loop())
        return line


class Within:
    """Cancels the block when its time is over and raises ``TimeoutError`` in its place.

    For requests' own tasks: ``with`` rather than ``async with``.
    """

    __slots__ = ("_late", "_line", "_task")

    def __init__(self, line: Line) -> None:
        self._line = line
        self._late = False
        self._task: asyncio.Task[object] | None = None

    def late(self) -> None:
        self._late = True
        assert self._task is not None  # noqa: S101 — it is awaited in one
        self._task.cancel()

    def __enter__(self) -> None:
        self._task = asyncio.current_task(self._line.loop)  # which costs less than to ask for it
        self._line.start(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._line.stop(self)
        if self._late and was_the_only_cause(self._task) and kind is asyncio.CancelledError:
            raise TimeoutError from error


def was_the_only_cause(task: asyncio.Task[object] | None) -> bool:
    """Of a cancellation of ``task`` that we asked for, which is taken back: nobody else wants it as
    well."""
    return task is not None and task.uncancel() == 0
