"""The router that chooses a lane and how many answers it writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fairgate.admission.model import LaneStatistics
from fairgate.codec import decode
from fairgate.config import reading
from fairgate.config.sampling import BestRoute as Settings
from fairgate.errors import ConfigError
from fairgate.routing.base import Action, Decision, LaneView, RouteRequest
from fairgate.routing.best_route import Tariff
from fairgate.routing.by_best_route import ByBestRoute
from fairgate.routing.predictor import Prediction, SeveralAnswers, Vector


class Told:
    """A predictor that knows what a test says."""

    version = "test"
    models = ("s", "l")

    best_of = None

    def __init__(
        self,
        success: Mapping[str, float],
        support: float = 1.0,
        several: SeveralAnswers | None = None,
    ) -> None:
        self._prediction = Prediction(success, success, support, several)

    def predict(self, prompt: str) -> Prediction:
        return self._prediction

    def features(self, prompt: str) -> Vector:
        return np.zeros(1, np.float32)


def lanes(**engines_up: int) -> list[LaneView]:
    prices = {"small": 1.0, "large": 10.0}
    return [LaneView(n, prices[n], LaneStatistics(engines_up=up)) for n, up in engines_up.items()]


def decide(
    success: float,
    *,
    up: int = 1,
    support: float = 1.0,
    learned: list[float] | None = None,
    reference: str | None = None,
    **fields: Any,
) -> Decision:
    body = {"model": "auto", "messages": [{"role": "user", "content": "How?"}], **fields}
    quality = body.pop("quality", None)
    call = decode("/v1/chat/completions", json.dumps(body).encode(), max_choices=8)
    settings = Settings(threshold=0.8, scorer_accuracy=0.9, concentration=2.0, reference=reference)
    several = None if learned is None else SeveralAnswers({"s": learned}, {})
    told = Told({"s": success, "l": 0.9}, support, several)
    router = ByBestRoute(told, {"small": "s", "large": "l"}, settings, Tariff(1, 2))
    return router.route(RouteRequest(call, quality=quality), lanes(small=up, large=1))


def test_the_harder_the_more_answers_then_the_larger_lane() -> None:
    assert decide(0.95).actions == (Action("small", 1), Action("large", 1))
    some = decide(0.65)
    assert some.actions[0].lane == "small"
    assert some.actions[0].samples > 1
    assert some.reason == "samples-by-formula"
    assert decide(0.1).actions == (Action("large", 1),)


def test_learned_heads_decide_and_the_formula_does_not() -> None:
    needs_three = decide(0.05, learned=[0.2, 0.6, 0.85, 0.9])
    assert needs_three.actions == (Action("small", 3), Action("large", 1))
    assert needs_three.reason == "samples"
    hopeless = decide(0.95, learned=[0.1, 0.1, 0.1])
    assert (hopeless.actions, hopeless.reason) == ((Action("large", 1),), "difficulty")
    assert decide(0.95, learned=[0.1, 0.9], quality=0.05).actions[0] == Action("small", 1)


def test_heads_that_compare_with_another_model_are_not_asked() -> None:
    assert decide(0.95, learned=[0.1], reference="small").reason == "difficulty-by-formula"
    assert decide(0.95, learned=[0.1], up=0).reason == "difficulty"


@pytest.mark.parametrize("fields", [{"stream": True}, {"temperature": 0}, {"n": 2}])
def test_a_request_that_may_have_one_answer_only(fields: dict[str, Any]) -> None:
    assert decide(0.65, **fields).actions == (Action("large", 1),)


def test_the_knob_is_the_wanted_quality() -> None:
    assert decide(0.1, quality=0.0).actions[0] == Action("small", 1)
    assert decide(0.95, quality=1.0).actions[0] == Action("large", 1)


def test_what_the_artefact_knows_nothing_about_goes_large() -> None:
    assert decide(0.95, support=0.0).actions == (Action("large", 1),)


def test_a_lane_that_is_down() -> None:
    assert decide(0.95, up=0).actions == (Action("large", 1),)


def test_it_needs_to_know_how_answers_are_chosen() -> None:
    engines = [{"type": "http", "url": "http://127.0.0.1:1"}]
    pool = {"lanes": {"a": {"engines": engines}}, "routing": {"router": "best-route"}}
    with pytest.raises(ConfigError, match=r"pools\.main\.best_of: expected a section, got none"):
        reading.convert({"pools": {"main": pool}}, source="")
