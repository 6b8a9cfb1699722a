"""How often a pool's routers chose each lane, what they predicted of it, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from fairgate.routing.base import Decision


@dataclass(slots=True)
class Tally:
    """Of one router and lane, since this process started."""

    router: str
    lane: str
    decisions: int = 0
    judged: int = 0
    """Requests that were given feedback."""
    _score: float = 0.0
    _compared: int = 0
    _predicted: float = 0.0
    _came_true: float = 0.0

    def judge(self, predicted: float | None, score: float) -> None:
        """Feedback ``score`` came where ``predicted`` was expected, if anything was."""
        self.judged += 1
        self._score += score
        if predicted is not None:
            self._compared += 1
            self._predicted += predicted
            self._came_true += score

    @property
    def predicted(self) -> float | None:
        """Mean prediction for requests that were judged."""
        return self._predicted / self._compared if self._compared else None

    @property
    def observed(self) -> float | None:
        """Mean feedback: of the same requests, where any of them had a prediction."""
        if self._compared:
            return self._came_true / self._compared
        return self._score / self.judged if self.judged else None


class Tallies:
    """Of one pool in one process."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], Tally] = {}

    def decided(self, decision: Decision) -> None:
        """A decision was made, and is obeyed."""
        self._find(decision.router, decision.actions[0].lane).decisions += 1

    def judged(self, router: str, lane: str, predicted: float | None, score: float) -> None:
        """Feedback came."""
        self._find(router, lane).judge(predicted, score)

    def all(self) -> list[Tally]:
        """By router and lane."""
        return [self._of[key] for key in sorted(self._of)]

    def _find(self, router: str, lane: str) -> Tally:
        key = (router, lane)
        found = self._of.get(key)
        if found is None:
            found = self._of[key] = Tally(router, lane)
        return found
