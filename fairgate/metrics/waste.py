"""Tokens that interactions were served in vain, since they lost a call."""

from __future__ import annotations

from collections import OrderedDict

_MOST = 10_000


class _Interaction:
    __slots__ = ("lost", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.lost = False


class Waste:
    """What running interactions were served by this process, the latest ``most`` of them.

    Served calls of an interaction that loses one are of no use to anybody: FairServe (arXiv
    2411.15997) calls them wasted.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._of: OrderedDict[str, _Interaction] = OrderedDict()

    def served(self, interaction: str, tokens: int, continues_as: str = "") -> int:
        """A call was served. Tokens that are wasted by it: all, where another one was lost.

        ``continues_as``: another name under which the interaction goes on.
        """
        it = self._find(interaction)
        if continues_as:
            self._of[continues_as] = it
            self._shrink()
        if it.lost:
            return tokens
        it.tokens += tokens
        return 0

    def lost(self, interaction: str) -> int:
        """A call was lost. Tokens that are wasted by it: those of all calls before the first loss.

        One that was served nothing so far wastes nothing, and is not remembered.
        """
        it = self._of.get(interaction)
        if it is None or it.lost:
            return 0
        it.lost = True
        return it.tokens

    def _find(self, interaction: str) -> _Interaction:
        it = self._of.get(interaction)
        if it is None:
            it = self._of[interaction] = _Interaction()
            self._shrink()
        else:
            self._of.move_to_end(interaction)
        return it

    def _shrink(self) -> None:
        while len(self._of) > self._most:
            self._of.popitem(last=False)
