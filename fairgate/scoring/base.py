"""What every scorer is: a prompt and answers to it in, a score for each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """One of several answers to the same prompt."""

    text: str
    """What it says; of a tool call, the function's name and its arguments."""
    logprobs: Sequence[float] = ()
    """Natural log-probability of each of its tokens, where a scorer needs them."""


class ScoringFailed(Exception):
    """A scorer could not do its work; the message says why."""


class Scorer(Protocol):
    """Compares answers. The larger a score, the better."""

    needs_logprobs: bool
    """The engine must be asked for the log-probabilities of tokens."""
    compares: bool
    """An answer's score hangs on the other answers too."""

    async def score(self, prompt: str, answers: Sequence[Answer]) -> Sequence[float]:
        """A finite score for each of ``answers`` (at least one).

        ``prompt`` is the last thing that the user said. Raises :class:`ScoringFailed`. Cancelled:
        nothing stays behind, but that a plain function in a thread runs to its end.
        """
