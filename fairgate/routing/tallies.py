"""How often a pool's routers chose each lane, what they predicted of it, and what came of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from fairgate.routing.base import Decision

Sums = Mapping[str, float]
"""What was counted, by ``router lane what``."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Of one router and lane."""

    router: str
    lane: str
    decisions: int
    judged: int
    """Requests that were given feedback."""
    predicted: float | None
    """Mean prediction for requests that were judged."""
    observed: float | None
    """Mean feedback: of the same requests, where any of them had a prediction."""


class Tallies:
    """What one process has counted and not told the others yet."""

    def __init__(self) -> None:
        self._news = defaultdict[str, float](float)

    def decided(self, decision: Decision) -> None:
        """A decision was made, and is obeyed."""
        self._news[f"{decision.router} {decision.actions[0].lane} decisions"] += 1

    def judged(self, router: str, lane: str, predicted: float | None, score: float) -> None:
        """Feedback ``score`` came where ``predicted`` was expected, if anything was."""
        of = f"{router} {lane}"
        seen = {"judged": 1.0, "score": score}
        if predicted is not None:
            seen |= {"compared": 1.0, "predicted": predicted, "came-true": score}
        for what, number in seen.items():
            self._news[f"{of} {what}"] += number

    def news(self) -> Sums:
        """What is new; it is the caller's to tell, or to put back."""
        news, self._news = self._news, defaultdict(float)
        return news

    def put_back(self, news: Sums) -> None:
        """It could not be told."""
        for field, number in news.items():
            self._news[field] += number


def tallies_of(sums: Sums) -> list[Tally]:
    """By router and lane."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for field, number in sums.items():
        router, lane, what = field.split(" ")
        found.setdefault((router, lane), {})[what] = number
    return [_tally(*of, counts) for of, counts in sorted(found.items())]


def _tally(router: str, lane: str, counts: Mapping[str, float]) -> Tally:
    compared, judged = counts.get("compared", 0), counts.get("judged", 0)
    observed = counts.get("score", 0) / judged if judged else None
    if compared:
        observed = counts.get("came-true", 0) / compared
    return Tally(
        router=router,
        lane=lane,
        decisions=round(counts.get("decisions", 0)),
        judged=round(judged),
        predicted=counts.get("predicted", 0) / compared if compared else None,
        observed=observed,
    )
