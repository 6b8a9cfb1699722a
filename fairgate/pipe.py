"""The short way for parts of a stream: from an engine's bytes to the client's, and no task between.

ASGI's ``send`` is awaited, so the request's task wakes for every part: for a stream of tokens that
is most of what a part costs. Whoever has a ``send`` may offer to take parts at once besides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from starlette.types import Send

Put = Callable[[bytes], bool]
"""Takes a part of a body that goes on, as ``send`` does, whoever calls it. ``False``: the client is
slow, and the next part is to be sent, which waits for it."""


class Pipe(ABC):
    """Owns a ``send``, and may take parts without it."""

    @abstractmethod
    def putting(self) -> Put | None:
        """What takes parts of the body that has begun, until the last one, which is sent.

        ``None``: they must all be sent.
        """


def put_of(send: Send) -> Put | None:
    """What takes parts in place of ``send``; ``None`` where its owner does not, or anything stands
    before it that may want to see them."""
    owner = getattr(send, "__self__", None)
    return owner.putting() if isinstance(owner, Pipe) else None
