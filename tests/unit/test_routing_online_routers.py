"""Routers decide at once: by price, by difficulty, by what an interaction's lane can do."""

from __future__ import annotations

import pytest
from support.live_routing import ByNumber, lanes, request, view

from fairgate import codec
from fairgate.errors import BadRequest
from fairgate.routing.base import Decision, LaneView
from fairgate.routing.difficulty import ByDifficulty, models_of, tells_apart
from fairgate.routing.knob import asked_quality
from fairgate.routing.most_free import MostFree
from fairgate.routing.plain import Plain
from fairgate.routing.price_order import PriceOrder
from fairgate.routing.sticky import Places, Sticky
from fairgate.routing.text import MAX_CHARS, prompt_text


def order(decision: Decision) -> list[str]:
    return [action.lane for action in decision.actions]


def hybrid(**options: bool) -> ByDifficulty:
    known = ByNumber()
    return ByDifficulty(known, known.choose, models_of(known, lanes()), **options)


# The knob


def test_quality_comes_from_the_model_name_before_the_header() -> None:
    header = [(b"x-fairgate-quality", b"0.25")]
    assert asked_quality("auto:0.8", header) == 0.8
    assert asked_quality("auto", header) == 0.25
    assert asked_quality(None, header) == 0.25
    assert asked_quality("auto", []) is None


@pytest.mark.parametrize("sent", ["2", "-0.1", "nan", "best", "", "0,5"])
def test_a_quality_that_is_none_is_refused_by_field_and_value(sent: str) -> None:
    with pytest.raises(BadRequest, match="X-Fairgate-Quality") as by_header:
        asked_quality("auto", [(b"x-fairgate-quality", sent.encode())])
    assert by_header.value.param == "X-Fairgate-Quality"
    assert repr(sent) in by_header.value.message
    with pytest.raises(BadRequest, match="model: expected 'auto' or 'auto:QUALITY'") as by_model:
        asked_quality(f"auto:{sent}", [])
    assert by_model.value.param == "model"
    assert f"auto:{sent}" in by_model.value.message


# Text


def test_the_last_thing_that_the_user_said_counts() -> None:
    body = (
        b'{"model": "auto", "messages": [{"role": "user", "content": "first"},'
        b'{"role": "assistant", "content": "yes"},'
        b'{"role": "user", "content": [{"type": "text", "text": "last"},'
        b'{"type": "image_url", "image_url": {"url": "data:"}}]},'
        b'{"role": "tool", "content": "42"}]}'
    )
    assert prompt_text(codec.decode("/v1/chat/completions", body, max_choices=1)) == "last"


def test_long_texts_keep_both_ends() -> None:
    text = prompt_text(request("a" * MAX_CHARS + "b" * MAX_CHARS).call)
    assert len(text) == MAX_CHARS + 1
    assert text[0] == "a"
    assert text[-1] == "b"


def test_prompts_that_are_no_text_have_none() -> None:
    ids = codec.decode("/v1/completions", b'{"prompt": [1, 2, 3]}', max_choices=1)
    assert prompt_text(ids) == ""


# By price


def test_price_order_takes_the_cheapest_and_overflows_to_dearer_ones() -> None:
    assert order(PriceOrder().route(request(), lanes())) == ["small", "large"]
    assert order(PriceOrder(overflow=False).route(request(), lanes())) == ["small"]


def test_quality_is_a_place_in_the_price_order() -> None:
    three = [view("b", 2.0), view("c", 3.0), view("a", 1.0)]
    places = {q: order(PriceOrder().route(request(quality=q), three))[0] for q in (0, 0.5, 0.9, 1)}
    assert places == {0: "a", 0.5: "b", 0.9: "c", 1: "c"}


def test_lanes_that_are_down_are_left_out_while_others_are_up() -> None:
    assert order(PriceOrder().route(request(), lanes(up=0))) == ["large"]
    dead = [view("large", 8.0, up=0), view("small", 1.0, up=0)]
    assert order(PriceOrder().route(request(), dead)) == ["small", "large"]


def test_without_configuration_the_most_free_lane_serves_unless_a_quality_is_named() -> None:
    busy = lanes(free=1)
    assert order(Plain().route(request(), busy)) == ["large", "small"]
    assert order(Plain().route(request(quality=0.2), busy)) == ["small", "large"]
    assert Plain().route(request(), busy).router == "most-free"


# By difficulty


def test_difficulty_takes_the_cheapest_lane_that_will_do() -> None:
    router = hybrid()
    easy = router.route(request("easy 0.1", quality=0.5), lanes())
    assert order(easy) == ["small", "large"]
    assert easy.predicted == {"small": 0.9, "large": 0.95}
    assert (easy.router, easy.version, easy.confidence) == ("hybrid", "v1", 0.9)
    hard = router.route(request("hard 0.9", quality=0.5), lanes())
    assert order(hard) == ["large"]


def test_quality_moves_the_threshold() -> None:
    router = hybrid(overflow=False)
    chosen = [
        order(router.route(request("so 0.4", quality=quality), lanes()))[0]
        for quality in (0.0, 0.5, 0.7, 1.0)
    ]
    assert chosen == ["small", "small", "large", "large"]


def test_what_is_too_difficult_never_waits_for_a_lane_that_will_not_do() -> None:
    """However long the line of ``large`` is, and the other way round for easy requests."""
    full = [view("large", 8.0, free=0, waiting=50), view("small", 1.0)]
    router = hybrid()
    assert order(router.route(request("hard 0.9", quality=0.5), full)) == ["large"]
    assert order(router.route(request("easy 0.1", quality=0.5), full))[0] == "small"


def test_a_lane_that_is_down_is_stood_in_for_by_the_best_that_is_left() -> None:
    down = [view("large", 8.0, up=0), view("small", 1.0)]
    decision = hybrid().route(request("hard 0.9", quality=0.5), down)
    assert order(decision)[0] == "small"
    assert decision.reason == "best-left"


def test_prompts_without_support_go_to_the_larger_lane() -> None:
    router = hybrid()
    assert order(router.route(request("? 0.1", quality=0.5), lanes())) == ["large"]
    assert order(router.route(request("", quality=0.5), lanes())) == ["large"]


def test_an_artefact_knows_lanes_only_by_all_their_models() -> None:
    def knows(*views: LaneView) -> bool:
        return tells_apart(models_of(ByNumber(), views), [view.name for view in views])

    assert knows(*lanes())
    assert knows(view("a", model="large"), view("small", model="m"))
    assert not knows(*lanes(), view("other"))
    assert not knows(view("small"), view("b", model="small"))


# Sticky


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_interaction_moves_up_when_difficulty_rises_and_stays_there() -> None:
    router = Sticky(hybrid(), Places(Clock(), 60))

    def lane_of(text: str, interaction: str = "run") -> str:
        asked = request(text, quality=0.5, interaction=interaction)
        return order(router.route(asked, lanes()))[0]

    assert [lane_of("x 0.1"), lane_of("x 0.3")] == ["small", "small"]
    assert lane_of("x 0.9") == "large"
    assert lane_of("x 0.1") == "large"
    assert lane_of("x 0.1", "other") == "small"
    assert lane_of("x 0.1", "") == "small"


def test_a_kept_interaction_does_not_overflow_to_cheaper_lanes() -> None:
    router = Sticky(hybrid(), Places(Clock(), 60))
    router.route(request("x 0.9", quality=0.5, interaction="run"), lanes())
    kept = router.route(request("x 0.1", quality=0.5, interaction="run"), lanes())
    assert order(kept) == ["large"]
    assert kept.reason == "sticky"


def test_an_interaction_leaves_a_lane_that_is_down_or_that_it_left_long_ago() -> None:
    clock = Clock()
    router = Sticky(MostFree(), Places(clock, 60))
    asked = request(interaction="run")
    assert order(router.route(asked, lanes(free=1)))[0] == "large"
    assert order(router.route(asked, lanes()))[0] == "large"
    without_large = [view("large", 8.0, up=0, free=0), view("small")]
    assert order(router.route(asked, without_large))[0] == "small"
    clock.now = 61.0
    assert order(router.route(asked, lanes(free=1)))[0] == "large"


def test_replicas_learn_each_others_places() -> None:
    here, there = Places(Clock(), 60), Places(Clock(), 60)
    here.put("run", "large")
    there.take_in(here.news())
    assert there.get("run") == "large"
    assert here.news() == {}
    assert there.news() == {}
    there.put("run", "small")
    there.take_in({"run": "large"})
    assert there.get("run") == "small"
    assert there.news() == {"run": "small"}


def test_places_are_bounded() -> None:
    places = Places(Clock(), 60)
    for n in range(50_100):
        places.put(str(n), "small")
    assert len(places) == 50_000
    assert len(places.news()) == 50_000
