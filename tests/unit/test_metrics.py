"""What the gateway's metrics count by themselves: bounds, waste, shares."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fairgate.admission.model import Served
from fairgate.metrics import Metrics
from fairgate.metrics.shares import due_shares, jain_index, shares_of
from fairgate.metrics.waste import Waste


def ended(metrics: Metrics, tenant: str, *, cost: float = 0.0) -> None:
    metrics.ended(
        tenant, 1.0, "main", "small", "completed", queue_s=0.2, grant_s=None, first_byte_s=0.02,
        served=Served(cost=cost, tokens=30, prompt_tokens=10, void=False),
    )  # fmt: skip


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """By name and tenant, over all other labels."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(metrics.render({}).decode()):
        for sample in family.samples:
            key = (sample.name, sample.labels.get("tenant", ""))
            found[key] = found.get(key, 0.0) + sample.value
    return found


def test_all_tenants_beyond_the_first_hundred_share_their_series() -> None:
    metrics = Metrics()
    for number in range(130):
        ended(metrics, f"t{number}")
    ended(metrics, "t5")
    told = samples(metrics)
    assert told["fairgate_requests_total", "t5"] == 2
    assert told["fairgate_requests_total", "other"] == 30
    assert ("fairgate_requests_total", "t100") not in told
    assert ("fairgate_tenant_weight", "other") not in told


def test_a_histogram_counts_each_value_once_zeros_too() -> None:
    metrics = Metrics()
    ended(metrics, "acme")
    metrics.ended(
        "acme", 1.0, "main", "small", "throttled", queue_s=0.0, grant_s=None, first_byte_s=None,
        served=Served(),
    )  # fmt: skip
    text = metrics.render({}).decode()
    assert 'fairgate_queue_seconds_bucket{le="0.005",tenant="acme"} 1.0' in text
    assert 'fairgate_queue_seconds_bucket{le="0.25",tenant="acme"} 2.0' in text
    told = samples(metrics)
    assert told["fairgate_queue_seconds_count", "acme"] == 2
    assert told["fairgate_time_to_first_byte_seconds_count", "acme"] == 1
    assert told["fairgate_tokens_total", "acme"] == 30


class TestWaste:
    def test_what_was_served_before_the_first_loss_is_wasted_once(self) -> None:
        waste = Waste()
        assert [waste.served("run", 100), waste.served("run", 20)] == [0, 0]
        assert waste.lost("run") == 120
        assert waste.lost("run") == 0
        assert waste.served("run", 7) == 7

    def test_others_are_not_touched(self) -> None:
        waste = Waste()
        waste.served("one", 10)
        assert waste.lost("two") == 0
        assert waste.lost("one") == 10

    def test_an_interaction_goes_on_under_the_name_of_its_answer(self) -> None:
        waste = Waste()
        waste.served("answer-1", 10, continues_as="answer-1")
        waste.served("answer-1", 20, continues_as="answer-2")
        assert waste.lost("answer-2") == 30

    def test_only_the_latest_are_remembered(self) -> None:
        waste = Waste(most=2)
        for name in ("one", "two", "one", "three"):
            waste.served(name, 10)
        assert [waste.lost(name) for name in ("one", "two", "three")] == [20, 0, 10]


class TestShares:
    def test_jain_is_one_when_even_and_one_nth_when_one_has_all(self) -> None:
        assert jain_index([0.3, 0.3, 0.3]) == pytest.approx(1.0)
        assert jain_index([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
        assert jain_index([]) == jain_index([0.0, 0.0]) == 1.0

    def test_due_is_by_weight_but_nobody_is_due_more_than_it_asks(self) -> None:
        due = due_shares({"a": 5, "b": 100, "c": 100}, {"a": 1, "b": 2, "c": 1}, 65)
        assert due == pytest.approx({"a": 5, "b": 40, "c": 20})

    def test_due_uses_up_the_capacity_and_no_more(self) -> None:
        demands = {name: float(number) for number, name in enumerate("abcdefg", start=1)}
        weights = {name: 1.0 + number % 3 for number, name in enumerate(demands)}
        for capacity in (0.0, 1.0, 13.0, 28.0):
            due = due_shares(demands, weights, capacity)
            assert sum(due.values()) == pytest.approx(capacity)
            assert all(due[name] <= demands[name] for name in due)
        assert due_shares(demands, weights, 100.0) == pytest.approx(demands)

    def test_who_floods_does_not_make_the_others_look_unsatisfied(self) -> None:
        shares = shares_of(
            {"victim": 50, "abuser": 50}, {"abuser": 900}, {"victim": 1, "abuser": 1}
        )
        assert {name: it.satisfied for name, it in shares.items()} == {"victim": 1, "abuser": 1}

    def test_who_is_pushed_aside_does(self) -> None:
        shares = shares_of(
            {"victim": 10, "abuser": 90, "idle": 0},
            {"victim": 40, "abuser": 900},
            dict.fromkeys(("victim", "abuser", "idle"), 1.0),
        )
        assert set(shares) == {"victim", "abuser"}
        assert shares["victim"].satisfied == pytest.approx(0.2)
        assert shares["abuser"].satisfied == 1
        assert jain_index([it.satisfied for it in shares.values()]) == pytest.approx(1.44 / 2.08)
