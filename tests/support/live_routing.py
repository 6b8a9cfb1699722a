"""Routers under test: requests, lanes, and an artefact that reads a prompt's difficulty off it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.json import encode

from fairgate import codec
from fairgate.admission.model import LaneStatistics
from fairgate.errors import ArtifactError
from fairgate.routing.base import LaneView, RouteRequest
from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.library import Knowledge
from fairgate.routing.predictor import Prediction, Vector
from fairgate.routing.satisfaction import sketch

CHAT = "/v1/chat/completions"


class ByNumber:
    """Knows ``small`` and ``large``; a prompt ``… 0.7`` is too difficult for ``small`` with
    probability 0.7. Prompts that begin with ``?`` are without support."""

    best_of = None

    def __init__(self, version: str = "v1", models: tuple[str, ...] = ("small", "large")) -> None:
        self.version = version
        self.models = models

    @classmethod
    def load(cls, path: Path | None) -> Knowledge:
        """Stands in for ``load_knowledge``: the file holds the version."""
        try:
            it = cls(path.read_text() if path else "shipped")
        except OSError as error:
            raise ArtifactError(f"{path}: {error.strerror}") from error
        return Knowledge(it, it.choose, it.promised)

    def predict(self, prompt: str) -> Prediction:
        difficulty = float(prompt.split()[-1]) if prompt else 1.0
        success = dict.fromkeys(self.models[:-1], 1 - difficulty) | {self.models[-1]: 0.95}
        enough = dict.fromkeys(self.models[:-1], 1 - difficulty) | {self.models[-1]: 1.0}
        return Prediction(success, enough, support=0.0 if prompt.startswith("?") else 0.9)

    def promised(self, prediction: Prediction, drop: float) -> str:
        """Certified for a drop of 0.1 or more, at quality 0.8."""
        if drop < 0.1:
            raise ArtifactError(f"promises: none of drop <= {drop}")
        return self.choose(prediction, 0.8)

    def choose(
        self, prediction: Prediction, quality: float | None, drop: float | None = None
    ) -> str:
        if quality is None and drop is not None:
            return self.promised(prediction, drop)
        quality = 0.5 if quality is None else quality
        good = (m for m in self.models if prediction.enough[m] >= quality)
        return next(good) if prediction.support or not quality else self.models[-1]

    def features(self, prompt: str) -> Vector:
        return words(prompt)


def words(prompt: str) -> Vector:
    """Features of ``prompt`` for what learns online."""
    return sketch(NGrams().encode(prompt).buckets)


def request(text: str = "easy 0.1", **fields: Any) -> RouteRequest:
    """A request whose prompt is ``text``."""
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    return RouteRequest(codec.decode(CHAT, encode(body), max_choices=8), **fields)


def view(
    name: str, price: float = 1.0, *, up: int = 1, free: int = 4, waiting: int = 0, model: str = ""
) -> LaneView:
    """A lane of four sequences."""
    state = LaneStatistics(engines_up=up, limit=4, running=4 - free, free=free, waiting=waiting)
    return LaneView(name, price, state, (model or name, name))


def lanes(**fields: Any) -> list[LaneView]:
    """``small`` at price 1 and ``large`` at price 8."""
    return [view("large", 8.0), view("small", 1.0, **fields)]
