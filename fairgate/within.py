"""A time limit for a block, for a fifth of the price of ``asyncio.timeout``."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Within:
    """Cancels the block after ``seconds`` and raises ``TimeoutError`` in its place.

    For requests' own tasks: the limit is fixed, and ``with`` rather than ``async with``.
    """

    __slots__ = ("_late", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._late = False

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(loop)
        self._timer = loop.call_later(self._seconds, self._ring)

    def _ring(self) -> None:
        self._late = True
        assert self._task is not None  # noqa: S101 — it is awaited in one
        self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if kind is asyncio.CancelledError and self._late and was_the_only_cause(self._task):
            raise TimeoutError from error


def was_the_only_cause(task: asyncio.Task[object] | None) -> bool:
    """Of a cancellation of ``task`` that we asked for: nobody else wants it as well."""
    return task is not None and task.uncancel() == 0
