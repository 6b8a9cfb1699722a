"""BEST-Route's choice and the formulas behind it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairgate.config.sampling import BestRoute as Settings
from fairgate.routing.best_route import (
    BestRoute,
    Option,
    Tariff,
    as_good,
    best_of_success,
    best_value,
    cheapest,
    options,
)

CHANCE = st.floats(0, 1)
PRICE = st.sampled_from([0.05, 0.1, 0.5, 1.0, 2.0, 10.0]) | st.floats(0.01, 20)


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Any]:
    """Lanes, the last one the reference, and a request."""
    names = [f"lane-{k}" for k in range(draw(st.integers(1, 4)))]
    samples = draw(st.integers(1, 6))
    return {
        "quality": {n: draw(st.lists(CHANCE, min_size=samples, max_size=samples)) for n in names},
        "tariffs": {n: Tariff(draw(PRICE), draw(PRICE)) for n in [*names, "reference"]},
        "prompt": draw(st.integers(1, 4000)),
        "output": {n: draw(st.sampled_from([50, 100, 400])) for n in [*names, "reference"]},
        "threshold": draw(CHANCE),
        "price": draw(st.floats(0.05, 20)),
    }


def every_way(pool: dict[str, Any]) -> list[tuple[str, int, float, float]]:
    """Spelled out: lane, answers, quality and cost of each way, the reference's first."""
    tariffs, output, prompt = pool["tariffs"], pool["output"], pool["prompt"]
    price_in, price_out = tariffs["reference"]
    ways = [("reference", 1, 1.0, prompt * price_in + output["reference"] * price_out)]
    for lane, chances in pool["quality"].items():
        price_in, price_out = tariffs[lane]
        for i in range(len(chances)):
            written = (i + 1) * output[lane]
            ways.append((lane, i + 1, chances[i], prompt * price_in + written * price_out))
    return ways


def offered(pool: dict[str, Any]) -> tuple[list[Option], Option]:
    reference = Option(*every_way(pool)[0])
    return (
        options(pool["quality"], pool["tariffs"], pool["prompt"], pool["output"]),
        reference,
    )


@settings(max_examples=1000)
@given(pools())
def test_the_cheapest_that_is_good_enough_equals_brute_force(pool: dict[str, Any]) -> None:
    found = every_way(pool)[0]
    for way in every_way(pool)[1:]:
        good_enough = way[2] >= pool["threshold"]
        if good_enough and (way[3], -way[2], way[1], way[0]) < (
            found[3], -found[2], found[1], found[0],
        ):  # fmt: skip
            found = way
    assert cheapest(*offered(pool), pool["threshold"]) == found


@settings(max_examples=1000)
@given(pools())
def test_what_is_worth_its_cost_equals_brute_force(pool: dict[str, Any]) -> None:
    ways = every_way(pool)
    unit = pool["price"] * ways[0][3]
    best = max(quality - cost / unit for _, _, quality, cost in ways)
    chosen = best_value(*offered(pool), pool["price"])
    assert chosen in ways
    assert chosen.quality - chosen.cost / unit == pytest.approx(best, abs=1e-12)


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from("abcd"), CHANCE, min_size=1),
    st.lists(PRICE, min_size=4, max_size=4),
    CHANCE,
)
def test_the_choice_under_a_threshold(
    success: dict[str, float], prices: list[float], threshold: float
) -> None:
    tariffs = {lane: Tariff(p, p) for lane, p in zip("abcd", prices, strict=True)}
    output = dict.fromkeys("abcd", 100.0)
    chosen = BestRoute(Settings(threshold=threshold)).choose(success, tariffs, 100, output)
    dearest = max(success, key=lambda lane: (tariffs[lane].output, lane))
    assert chosen.quality >= threshold
    assert chosen.cost <= 200 * tariffs[dearest].output * (1 + 1e-12)
    assert chosen.lane != dearest or chosen == Option(dearest, 1, 1.0, chosen.cost)


def test_easy_prompts_stay_small_and_hard_ones_do_not() -> None:
    tariffs = {"small": Tariff(1, 1), "large": Tariff(10, 10)}
    output = {"small": 100.0, "large": 100.0}
    router = BestRoute(Settings(threshold=0.8, scorer_accuracy=0.9, concentration=2.0))
    chosen = [
        router.choose({"small": p, "large": 0.9}, tariffs, 50, output)[:2] for p in (0.9, 0.6, 0.1)
    ]
    assert chosen[0] == ("small", 1)
    assert chosen[1][0] == "small"
    assert chosen[1][1] > 1
    assert chosen[2] == ("large", 1)


def test_a_reference_that_is_named_and_learned_quality() -> None:
    tariffs = {"a": Tariff(1, 1), "b": Tariff(2, 2), "c": Tariff(9, 9)}
    output = dict.fromkeys("abc", 10.0)
    router = BestRoute(Settings(threshold=0.5, reference="b"))
    success = dict.fromkeys("abc", 0.5)
    weak, fair = {"a": [0.1, 0.2], "c": [1.0, 1.0]}, {"a": [0.4, 0.6]}
    assert router.choose(success, tariffs, 10, output, learned=weak)[:2] == ("b", 1)
    assert router.choose(success, tariffs, 10, output, learned=fair)[:2] == ("a", 2)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_a_lane_that_no_head_knows_is_judged_by_formula(most: int) -> None:
    tariffs = {"a": Tariff(1, 1), "b": Tariff(1, 1), "l": Tariff(50, 50)}
    output = dict.fromkeys(tariffs, 10.0)
    router = BestRoute(Settings(threshold=0.7, scorer_accuracy=0.9, concentration=4.0))
    success = {"a": 0.5, "b": 0.5, "l": 1.0}
    formula = as_good(best_of_success(0.5, 5, accuracy=0.9, concentration=4.0), 1.0)
    needed = next(n for n, chance in enumerate(formula, 1) if chance >= 0.7)
    chosen = router.choose(success, tariffs, 10, output, learned={"a": [0.1] * 5}, most=most)
    assert chosen[:2] == (("b", needed) if most >= needed else ("l", 1))


def test_more_answers_than_a_head_knows_are_not_asked_for() -> None:
    tariffs = {"s": Tariff(1, 1), "l": Tariff(50, 50)}
    router = BestRoute(Settings(threshold=0.9, scorer_accuracy=0.99, concentration=99.0))
    success, output = {"s": 0.5, "l": 0.9}, {"s": 10.0, "l": 10.0}
    assert router.choose(success, tariffs, 10, output).samples > 2
    learned = {"s": [0.3, 0.6]}
    assert router.choose(success, tariffs, 10, output, learned=learned)[:2] == ("l", 1)
    few = BestRoute(Settings(threshold=0.55, max_samples=1))
    assert few.choose(success, tariffs, 10, output, learned=learned)[:2] == ("l", 1)


def test_learned_chances_of_a_right_answer_against_a_price() -> None:
    tariffs = {"s": Tariff(0, 1), "l": Tariff(0, 20)}
    router = BestRoute(Settings(price_of_quality=5.0))
    assert router.by_value
    success, output = {"s": 0.1, "l": 0.9}, {"s": 10.0, "l": 10.0}
    learned = {"s": [0.3, 0.95], "l": [0.9]}
    chosen = router.choose(success, tariffs, 10, output, learned=learned)
    assert chosen[:3] == ("s", 2, 0.95)
    chosen = router.choose(success, tariffs, 10, output, learned={**learned, "s": [0.3, 0.4]})
    assert chosen[:3] == ("l", 1, 0.9)


@given(CHANCE, st.floats(0.5, 0.99), st.floats(0.1, 100))
def test_looked_up_is_as_good_as_computed(
    success: float, accuracy: float, concentration: float
) -> None:
    of = {"accuracy": accuracy, "concentration": concentration}
    router = BestRoute(Settings(scorer_accuracy=accuracy, concentration=concentration))
    exact = best_of_success(success, 5, **of)
    assert router._right(success) == pytest.approx(exact, abs=2e-3)


def test_a_request_that_may_not_have_several_answers() -> None:
    tariffs = {"small": Tariff(1, 1), "large": Tariff(10, 10)}
    output = {"small": 100.0, "large": 100.0}
    router = BestRoute(Settings(threshold=0.8, scorer_accuracy=0.9, concentration=2.0))
    success = {"small": 0.7, "large": 0.9}
    assert router.choose(success, tariffs, 50, output).samples > 1
    assert router.choose(success, tariffs, 50, output, most=1)[:2] == ("large", 1)
    assert router.choose(success, tariffs, 50, output, most=1, threshold=0.5)[:2] == ("small", 1)
    assert router.choose(success, tariffs, 50, output, threshold=1.0)[:2] == ("large", 1)


def test_against_a_price_an_answer_may_be_better_than_the_references() -> None:
    tariffs = {"small": Tariff(0, 1), "large": Tariff(0, 20)}
    output = {"small": 10.0, "large": 10.0}
    router = BestRoute(
        Settings(price_of_quality=5.0, scorer_accuracy=0.95, concentration=5.0, max_samples=5)
    )
    chosen = router.choose({"small": 0.6, "large": 0.7}, tariffs, 10, output)
    assert chosen.lane == "small"
    assert chosen.quality > 0.7


@given(CHANCE, st.floats(0.5, 0.99), st.floats(0.01, 100))
def test_more_answers_never_hurt_a_scorer_that_is_better_than_chance(
    success: float, accuracy: float, concentration: float
) -> None:
    chances = best_of_success(success, 8, accuracy=accuracy, concentration=concentration)
    assert chances[0] == pytest.approx(success, abs=1e-5)
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(chances))
    assert all(0 <= chance <= 1 + 1e-9 for chance in chances)


def test_the_limits_of_the_formula() -> None:
    def of(accuracy: float, concentration: float) -> float:
        return best_of_success(0.4, 4, accuracy=accuracy, concentration=concentration)[-1]

    assert of(0.5, 1.0) == pytest.approx(0.4), "a blind scorer"
    assert of(0.9, 1e-6) == pytest.approx(0.4, abs=1e-4), "all answers are alike"
    assert of(1 - 1e-12, 1e9) == pytest.approx(1 - 0.6**4), "independent answers, a perfect scorer"
    # Beta-binomial coverage: 1 - Π (β+i)/(κ+i) with κ = 2, β = 1.2.
    coverage = 1 - math.prod((1.2 + i) / (2 + i) for i in range(4))
    assert of(1 - 1e-12, 2.0) == pytest.approx(coverage)
    # Two answers: both right, or one of them and the scorer tells.
    both, one = 0.4 * 1.8 / 3, 2 * 0.4 * 1.2 / 3
    two = best_of_success(0.4, 2, accuracy=0.85, concentration=2.0)[1]
    assert two == pytest.approx(both + 0.85 * one)


def test_as_good_as_the_reference() -> None:
    assert as_good([0.0, 0.5, 1.0], 0.8) == pytest.approx([0.2, 0.6, 1.0])
