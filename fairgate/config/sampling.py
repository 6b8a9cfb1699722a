"""Configuration of several answers to one request: how many are written, how one is chosen.

After BEST-Route (arXiv 2506.22716) and FrugalGPT's cascade (arXiv 2305.05176).
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from fairgate.config.base import Base, Name, Positive, Share

Samples = Annotated[int, Meta(ge=1, le=64)]


class LogProbability(Base, frozen=True, tag="log-probability"):
    """The mean log-probability of an answer's tokens, 0 at most; the engine is asked for them."""


class SelfConsistency(Base, frozen=True, tag="self-consistency"):
    """The share of the answers that come to the same final answer (arXiv 2203.11171)."""


class Agreement(Base, frozen=True, tag="agreement"):
    """The mean similarity of an answer to the others, 0 to 1, by the words that they share."""


class Verifier(Base, frozen=True, tag="verifier"):
    """A Python function ``(prompt, answer)`` that tells how good an answer is, larger is better.

    Plain functions run in a thread, ``async`` ones on the gateway's event loop.
    """

    function: Annotated[str, Meta(pattern=r"^[\w.]+:\w+$")]
    """``package.module:name``, imported when the gateway starts."""
    timeout_s: Positive = 2.0


class HttpScorer(Base, frozen=True, tag="http"):
    """A verifier or reward model behind a URL.

    It is posted ``{"prompt": …, "answers": […]}`` and answers ``{"scores": […]}``, a number for
    each, larger is better.
    """

    url: str
    api_key: str | None = None
    timeout_s: Positive = 2.0


Scorer = LogProbability | SelfConsistency | Agreement | Verifier | HttpScorer


class BestOf(Base, frozen=True):
    """Best of n: an engine writes n answers to a request, a scorer chooses the client's.

    The client says how many (``X-Fairgate-Samples``), else the router, else ``samples``.
    """

    max_samples: Samples = 5
    samples: dict[Name, Samples] = field(default_factory=dict)
    """Answers that a lane writes where nobody says; 1 where it is not named."""
    scorer: Scorer = LogProbability()


class Cascade(Base, frozen=True):
    """A request with ``model: auto`` that goes to ``first`` is asked again at ``then`` if the
    answer scores ``below``."""

    first: Name
    then: Name
    below: float
    """In the scorer's own units; every answer tells its score as ``x-fairgate-score``."""
    scorer: Scorer = LogProbability()
    wait_s: Positive = 10.0
    """Longest wait for capacity at ``then``; after it the first answer serves."""


class BestRoute(Base, frozen=True):
    """How a lane and a number of answers are chosen.

    Either the cheapest way that is good enough, or the one whose quality is worth its cost.
    """

    threshold: Share = 0.9
    """Wanted probability that the answer is as good as the reference lane's."""
    price_of_quality: Positive | None = None
    """If set, not the threshold decides but the largest ``P(right answer) - cost / this``: what a
    right answer is worth, where the reference lane's answer costs 1."""
    reference: Name | None = None
    """``None``: the dearest lane."""
    max_samples: Samples = 5
    scorer_accuracy: Annotated[float, Meta(ge=0.5, lt=1)] = 0.7
    """How often the scorer prefers the right one of a right and a wrong answer."""
    concentration: Positive = 1.0
    """How much the answers of one model to one prompt vary: near 0 they are all right or all
    wrong, so that more of them help little; large, each is right or wrong by itself."""
