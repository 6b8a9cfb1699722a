"""Prompt text of a wanted number of tokens.

The words are frequent English ones that byte-pair vocabularies hold as one token each when a space
stands before them (a test checks this for cl100k, whose merges Qwen and Llama 3 build on), so
counting words counts tokens. What a chat template adds comes on top; the report shows wanted
beside counted.
"""

from __future__ import annotations

from itertools import accumulate
from random import Random

_TEXT = """
the of and to in is that for it as was with be by on not he his but at are this have from or had
an they which one you were all her she there would their we him been has when who will no more
if out so up said what its about than into them can only other time new some could these two may
first then do any like my now over such our man me even most made after also did many before
must through back years where much your way well down should because long each just state those
people too how little good world make very year still see work life men between never day same
another know while last might great old off come since go against right came take used himself
few house use place during high without again home around small however found part water general
public school fact once every number hand set left end point order night put room second side
"""
WORDS = tuple(_TEXT.split())

_UNIQUE_WORDS = 9
"""Words at the head of a prompt that no other has: inside vLLM's first 16-token cache block."""
_BOOK_WORDS = 16_384


class Prompts:
    """Writes prompts cheaply: slices of one prepared text behind a head of their own.

    ``run`` and the call's index seed the head, so that neither another call nor an earlier replay
    has left it in a prefix cache. ``shared_prefix`` tokens at the very beginning are alike for all
    requests of one tenant and app instead, as a system prompt is.
    """

    def __init__(self, run: str, *, shared_prefix: int = 0) -> None:
        self._run = run
        self._shared_prefix = shared_prefix
        random = Random("book")  # noqa: S311  text, not a secret
        words = [f" {word}" for word in random.choices(WORDS, k=_BOOK_WORDS)]
        self._book = "".join(words)
        self._ends = [0, *accumulate(map(len, words))]

    def write(self, index: int, tokens: int, family: str = "") -> str:
        """The text of call ``index``; calls of one ``family`` share the prefix."""
        shared = min(self._shared_prefix, tokens)
        own = tokens - shared
        head = Random(f"{self._run} {index}").choices(WORDS, k=min(_UNIQUE_WORDS, own))  # noqa: S311
        text = " " + " ".join(head) if head else ""
        return (self._prefix(family, shared) + text + self._slice(index, own - len(head)))[1:]

    def _prefix(self, family: str, tokens: int) -> str:
        if not tokens:
            return ""
        start = Random(f"prefix {family}").randrange(_BOOK_WORDS)  # noqa: S311
        return self._slice(start, tokens)

    def _slice(self, start: int, words: int) -> str:
        """``words`` words of the book from word ``start`` on, going round."""
        start %= _BOOK_WORDS
        rounds, end = divmod(start + words, _BOOK_WORDS)
        if rounds == 0:
            return self._book[self._ends[start] : self._ends[end]]
        return (
            self._book[self._ends[start] :]
            + self._book * (rounds - 1)
            + self._book[: self._ends[end]]
        )
