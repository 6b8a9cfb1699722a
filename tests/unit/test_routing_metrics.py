"""Figures of merit against values worked out by hand, and the certified promise."""

from __future__ import annotations

import numpy as np
import pytest

from fairgate.routing import isotonic
from fairgate.routing.learning import labels, metrics
from fairgate.routing.learning.promise import sweep


def test_recovered_gap_of_an_oracle_a_coin_and_the_worst() -> None:
    small, large = [1, 0, 1, 0], [1, 1, 1, 1]
    assert metrics.recovered([0, 1, 0, 1], small, large).tolist() == [0, 0.5, 1, 1, 1]
    assert metrics.apgr([0, 1, 0, 1], small, large) == pytest.approx(0.75)
    assert metrics.apgr([0, 0, 0, 0], small, large) == pytest.approx(0.5)
    assert metrics.apgr([1, 0, 1, 0], small, large) == pytest.approx(0.25)
    assert metrics.cpt(0.5, [0, 1, 0, 1], small, large) == 0.25
    assert metrics.cpt(0.8, [0, 1, 0, 1], small, large) == 0.5


def test_without_a_gap_nothing_can_be_recovered() -> None:
    assert np.isnan(metrics.apgr([0, 1], [1, 0], [0, 1]))


def test_auc_counts_ties_half() -> None:
    assert metrics.roc_auc([1, 2, 3, 4], [0, 0, 1, 1]) == 1
    assert metrics.roc_auc([1, 1, 1, 1], [0, 1, 0, 1]) == 0.5
    assert metrics.roc_auc([2, 1, 2, 3], [0, 0, 1, 1]) == pytest.approx(0.875)
    assert np.isnan(metrics.roc_auc([1, 2], [1, 1]))


def test_calibration_error_is_the_mean_distance_over_bins() -> None:
    assert metrics.ece([0.9, 0.9, 0.1, 0.1], [1, 1, 0, 0]) == pytest.approx(0.1)
    assert metrics.ece([0.5] * 4, [1, 0, 1, 0]) == pytest.approx(0)


def test_isotonic_knots_ascend_and_find_the_rates() -> None:
    random = np.random.default_rng(0)
    score = random.random(20000)
    knots = isotonic.fit(score, random.random(20000) < score**2)
    assert (np.diff(knots) >= 0).all()
    asked = np.linspace(0.1, 0.9, 9)
    assert np.abs(isotonic.apply(knots, asked) - asked**2).max() < 0.04


def test_labels_of_the_paper() -> None:
    small = np.array([[0.0, 1.0], [0.5, 0.5]], np.float32)
    large = np.array([[0.5, 0.5], [0.6, 0.4]], np.float32)
    assert labels.good_enough(small, large, "det").tolist() == [0, 0]
    assert labels.good_enough(small, large, "prob").tolist() == [0.5, 0.5]
    assert labels.relaxed(small, large, 0.5).tolist() == [1, 1]
    assert labels.good_enough(small, large, "gap").tolist() == pytest.approx([0.5, 0.5])


def test_the_relaxation_spreads_labels_most() -> None:
    random = np.random.default_rng(0)
    small = random.normal(0.3, 0.1, (100, 5)).astype(np.float32)
    large = random.normal(0.8, 0.1, (100, 5)).astype(np.float32)
    t = labels.best_relaxation(small, large)
    assert 0.3 < t < 0.7
    assert labels.spread(labels.relaxed(small, large, t)) > 0.2
    assert labels.spread(labels.relaxed(small, large, 0.0)) < 0.01


def test_spread_is_the_mean_absolute_difference() -> None:
    y = np.array([0.1, 0.4, 0.4, 0.9], np.float32)
    assert labels.spread(y) == pytest.approx(np.abs(y[:, None] - y[None, :]).mean())


def _population(random: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    score = random.random(count)
    large = (random.random(count) < 0.85).astype(float)
    small = np.where(random.random(count) < 0.25 * (1 - score), 0, large)
    return score, small, large


def test_a_certified_drop_holds_and_a_measured_one_breaks_half_the_time() -> None:
    random = np.random.default_rng(0)
    score, small, large = _population(random, 20000)
    broken = {"certified": 0, "measured": 0}
    shares = []
    for _ in range(200):
        known = random.permutation(len(score))[:1000]
        swept = sweep(score[known], small[known], large[known])
        for rule in broken:
            step = getattr(swept, rule)(0.02)
            routed = score >= swept.threshold[step]
            broken[rule] += (large - small)[routed].sum() / large.sum() > 0.02
            if rule == "certified":
                shares.append(routed.mean())
    assert broken["certified"] <= 20
    assert broken["measured"] >= 60
    assert np.mean(shares) > 0.2


def test_more_labels_certify_more_and_nothing_is_certified_without_any_reason() -> None:
    score, small, large = _population(np.random.default_rng(1), 500)
    swept = sweep(score, small, large)
    few, more = swept.certified(0.02), swept.with_more(16).certified(0.02)
    assert few is not None
    assert more is not None
    assert swept.share[few] < swept.share[more]
    assert sweep(score, np.zeros(500), np.ones(500)).certified(0.001) is None


def test_equal_scores_are_routed_together() -> None:
    swept = sweep([0.5] * 100, [1] * 100, [1] * 100)
    assert swept.share.tolist() == [1.0]
