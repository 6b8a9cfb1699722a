"""BEST-Route's choice (arXiv 2506.22716): which lane answers, and how many times it tries.

A lane that writes n answers, of which a scorer picks one, may be as good as a dearer lane and still
cost less. ``quality[k, n]`` is the probability that the best of n answers of lane k, as picked by
the scorer, is as good as the reference lane's one answer; the cost is
``prompt tokens · input price + n · mean output tokens · output price``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from fairgate.config.sampling import BestRoute as Settings

_SURE = 1e-6
_GRID = 256


class Tariff(NamedTuple):
    """What a lane costs for each token, in any unit that all lanes share."""

    input: float
    output: float


class Option(NamedTuple):
    """One way to serve a request."""

    lane: str
    samples: int
    quality: float
    """Probability of an answer as good as the reference lane's, or of a right one."""
    cost: float


def best_of_success(
    success: float, max_samples: int, *, accuracy: float, concentration: float
) -> list[float]:
    """Probability that the picked one of 1, 2, … ``max_samples`` answers is right.

    ``success`` is that of a single answer. The rate s at which this very prompt is answered right
    is not known but for its mean: s ~ Beta(success·κ, (1-success)·κ) with κ = ``concentration``, so
    the number of right answers among n is beta-binomial. Of c right and n-c wrong ones the scorer
    picks a right one with probability c·w/(c·w + n-c), w = a/(1-a) (Luce's choice axiom), which for
    one of each is ``accuracy`` a.
    """
    mean = min(max(success, _SURE), 1 - _SURE)
    odds = accuracy / (1 - accuracy)
    return [
        sum(
            chance * right * odds / (right * odds + n - right)
            for right, chance in enumerate(_beta_binomial(n, mean, concentration))
            if right
        )
        for n in range(1, max_samples + 1)
    ]


def _beta_binomial(n: int, mean: float, concentration: float) -> list[float]:
    """Chances of 0 to ``n`` successes, each from the one before it."""
    alpha = mean * concentration
    beta = concentration - alpha  # so that the chances add up to 1 however close the mean is to it
    chance = 1.0
    for i in range(n):
        chance *= (beta + i) / (concentration + i)
    chances = [chance]
    for c in range(n):
        chance *= (n - c) * (alpha + c) / ((c + 1) * (beta + (n - c - 1)))
        chances.append(chance)
    return chances


def as_good(best_of: Sequence[float], reference: float) -> list[float]:
    """Probability of an answer as good as the reference's, which is right with ``reference``:
    ``1 - r·(1 - p)``, both right or wrong by themselves given the prompt."""
    return [1 - reference * (1 - p) for p in best_of]


def options(
    quality: Mapping[str, Sequence[float]],
    tariffs: Mapping[str, Tariff],
    prompt_tokens: float,
    output_tokens: Mapping[str, float],
) -> list[Option]:
    """Every lane of ``quality`` with 1, 2, … answers, and what each costs.

    ``output_tokens``: mean length of one answer of each lane.
    """
    return [
        Option(lane, n, p, _cost(tariffs[lane], prompt_tokens, n * output_tokens[lane]))
        for lane, chances in quality.items()
        for n, p in enumerate(chances, 1)
    ]


def _cost(tariff: Tariff, prompt_tokens: float, output_tokens: float) -> float:
    return prompt_tokens * tariff.input + output_tokens * tariff.output


def cheapest(ways: Iterable[Option], reference: Option, threshold: float) -> Option:
    """The cheapest way with at least the quality ``threshold``, else the reference.

    Never one that costs more than the reference. Of equal cost, the better one; of equal quality
    too, the one with fewer answers.
    """
    valid = [way for way in ways if way.quality >= threshold]
    return min((reference, *valid), key=lambda way: (way.cost, -way.quality, way.samples, way.lane))


def best_value(ways: Iterable[Option], reference: Option, price_of_quality: float) -> Option:
    """The way with the largest ``quality - cost / (price_of_quality · reference's cost)``.

    Of equal value, the cheaper one.
    """
    unit = price_of_quality * reference.cost
    return min(
        (reference, *ways),
        key=lambda way: (way.cost / unit - way.quality, way.cost, way.samples, way.lane),
    )


class BestRoute:
    """The choice under one setting. Decides at once, and holds nothing of what it decided."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # A request is worth a look-up, not a sum of chances for each lane.
        self._best_of = [
            best_of_success(
                i / _GRID,
                settings.max_samples,
                accuracy=settings.scorer_accuracy,
                concentration=settings.concentration,
            )
            for i in range(_GRID + 1)
        ]

    def choose(
        self,
        success: Mapping[str, float],
        tariffs: Mapping[str, Tariff],
        prompt_tokens: float,
        output_tokens: Mapping[str, float],
        *,
        learned: Mapping[str, Sequence[float]] | None = None,
        threshold: float | None = None,
        most: int | None = None,
    ) -> Option:
        """The way to serve a prompt whose single answers are right with ``success``, by lane.

        Of the reference lane one answer is asked at most. ``threshold``: this request's own.
        ``most``: no more answers than so many, such as 1 for a stream that cannot wait.

        ``learned`` is what heads say of the best of 1, 2, … answers, by lane: under a threshold the
        probability of an answer as good as the reference's (whose own is 1); where
        :attr:`by_value`, that of a right answer, of the reference lane too. The formulas are the
        fallback for lanes that no head knows.
        """
        settings = self._settings
        name = self.reference(success, tariffs)
        quality = {
            lane: (learned or {}).get(lane) or self._by_formula(chance, success[name])
            for lane, chance in success.items()
            if lane != name
        }
        others = {
            lane: chances[: min(most or settings.max_samples, settings.max_samples)]
            for lane, chances in quality.items()
        }
        ways = options(others, tariffs, prompt_tokens, output_tokens)
        cost = _cost(tariffs[name], prompt_tokens, output_tokens[name])
        if settings.price_of_quality is None:
            wanted = settings.threshold if threshold is None else threshold
            return cheapest(ways, Option(name, 1, 1.0, cost), wanted)
        (right, *_) = (learned or {}).get(name) or (success[name],)
        return best_value(ways, Option(name, 1, right, cost), settings.price_of_quality)

    @property
    def by_value(self) -> bool:
        """What a right answer is worth decides, not a threshold."""
        return self._settings.price_of_quality is not None

    def reference(self, lanes: Collection[str], tariffs: Mapping[str, Tariff]) -> str:
        """That of ``lanes`` that the others are compared with: the named one, else the dearest."""
        name = self._settings.reference
        if name is not None and name in lanes:
            return name
        return max(lanes, key=lambda lane: (tariffs[lane].output, lane))

    def _by_formula(self, success: float, reference: float) -> Sequence[float]:
        right = self._right(success)
        return right if self.by_value else as_good(right, reference)

    def _right(self, success: float) -> list[float]:
        """:func:`best_of_success`, between its values on the grid."""
        at = min(max(success, 0.0), 1.0) * _GRID
        below = min(int(at), _GRID - 1)
        part = at - below
        low, high = self._best_of[below], self._best_of[below + 1]
        return [a + (b - a) * part for a, b in zip(low, high, strict=True)]
