"""Plans: which requests get several answers, and what the engine is asked for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fairgate.codec import PATHS, Route, decode
from fairgate.config.sampling import BestOf, Cascade, SelfConsistency
from fairgate.errors import BadRequest
from fairgate.sampling import Plan, Planner, Wishes, read_wishes

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "seed": 1e2}
CASCADE = Cascade(first="small", then="large", below=-1.0)


def plan(
    body: dict[str, Any],
    planner: Planner,
    wishes: Wishes = Wishes(),  # noqa: B008 — frozen
    lanes: tuple[str, ...] = ("small", "large"),
    route: Route = "chat",
    **more: Any,
) -> Plan | None:
    raw = json.dumps(body).encode()
    call = decode(PATHS[route], raw, max_choices=64)
    return planner.plan(raw, call, wishes, lanes, **more)


def drafted(made: Plan | None, lane: str = "small") -> dict[str, Any]:
    assert made is not None
    draft = made.draft(lane)
    assert draft.call.choices == draft.samples
    body: dict[str, Any] = json.loads(draft.body)
    assert {name: json.loads(bytes(raw)) for name, raw in draft.call.fields.items()} == body
    return body


def test_the_client_then_the_router_then_the_configuration_say_how_many() -> None:
    planner = Planner(BestOf(samples={"small": 2}), None)
    routed = {"small": 3}
    asked = plan(ASKED, planner, Wishes(samples=4), routed=routed)
    assert drafted(asked) == ASKED | {"n": 4, "logprobs": True}
    assert drafted(plan(ASKED, planner, routed=routed))["n"] == 3
    assert drafted(plan(ASKED, planner))["n"] == 2
    assert plan(ASKED, planner, Wishes(samples=1)) is None
    assert drafted(plan(ASKED, planner, routed={"small": 9}))["n"] == 5


def test_each_lane_has_its_own_number() -> None:
    made = plan(ASKED, Planner(BestOf(samples={"small": 2}), None))
    assert drafted(made, "small")["n"] == 2
    assert made is not None
    assert made.draft("large").body == made.body


def test_only_a_scorer_that_needs_them_asks_for_log_probabilities() -> None:
    planner = Planner(BestOf(samples={"small": 2}, scorer=SelfConsistency()), None)
    assert drafted(plan(ASKED, planner)) == ASKED | {"n": 2}
    with_logprobs = drafted(plan(ASKED | {"logprobs": True, "top_logprobs": 3}, planner))
    assert with_logprobs["top_logprobs"] == 3
    text = {"model": "m", "prompt": "Hi"}
    asked = plan(text, Planner(BestOf(samples={"small": 2}), None), route="completions")
    assert drafted(asked) == text | {"n": 2, "logprobs": 0}


def test_a_client_that_asked_for_log_probabilities_keeps_its_own() -> None:
    planner = Planner(BestOf(samples={"small": 2}), None)
    made = plan({"model": "m", "prompt": "Hi", "logprobs": 2}, planner, route="completions")
    assert drafted(made)["logprobs"] == 2
    assert made is not None
    assert made.draft("small").logprobs is False


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"best_of": 2},
        {"stream": True},
        {"temperature": 0},
        {"temperature": 1e-6},
        {"temperature": "hot"},
        {"use_beam_search": True},
    ],
)
def test_calls_that_cannot_be_chosen_among(fields: dict[str, Any]) -> None:
    assert plan(ASKED | fields, Planner(BestOf(samples={"small": 2}), None)) is None


@pytest.mark.parametrize("route", ["responses", "embeddings"])
def test_routes_where_an_engine_writes_one_answer(route: Route) -> None:
    planner = Planner(BestOf(samples={"small": 2}), CASCADE)
    assert plan({"input": "Hi"}, planner, route=route, free_choice=True) is None


def test_a_stream_that_may_wait_is_not_one_for_the_engine() -> None:
    body = ASKED | {"stream": True, "stream_options": {"include_usage": True}}
    planner = Planner(BestOf(samples={"small": 2}), None)
    made = plan(body, planner, Wishes(accepts_delay=True))
    assert drafted(made, "small") == ASKED | {"n": 2, "logprobs": True}
    assert drafted(made, "large") == ASKED
    assert made is not None
    assert not made.draft("small").call.stream
    assert drafted(made.plain()) == ASKED


def test_a_cascade_begins_where_the_lane_was_ours_to_choose() -> None:
    planner = Planner(None, CASCADE)
    made = plan(ASKED, planner, free_choice=True)
    assert drafted(made) == ASKED | {"logprobs": True}
    assert drafted(made, "large") == ASKED
    assert plan(ASKED, planner, free_choice=False) is None
    assert plan(ASKED, planner, lanes=("large", "small"), free_choice=True) is None
    greedy = plan(ASKED | {"temperature": 0}, planner, free_choice=True)
    assert drafted(greedy)["logprobs"] is True, "one answer is judged, however it was sampled"


def test_bytes_that_nobody_reads_stay_as_they_are() -> None:
    made = plan(ASKED, Planner(BestOf(samples={"small": 2}), None))
    assert made is not None
    assert b'"seed":100.0' in made.draft("small").body


def test_what_headers_say() -> None:
    best_of = BestOf(max_samples=5)
    sent = [(b"x-fairgate-samples", b"3"), (b"x-fairgate-accept-delay", b"True")]
    assert read_wishes(sent, best_of) == Wishes(3, True)
    assert read_wishes([(b"x-fairgate-accept-delay", b"0")], best_of) == Wishes()
    assert read_wishes(sent, None) == Wishes(None, True)
    for wrong in (b"6", b"0", b"x", b"1e9", "²".encode("latin-1")):
        with pytest.raises(BadRequest, match="X-Fairgate-Samples: expected 1 to 5, got"):
            read_wishes([(b"x-fairgate-samples", wrong)], best_of)
