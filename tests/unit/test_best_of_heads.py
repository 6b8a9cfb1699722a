"""BEST-Route's heads: labels from recorded answers, and what is learned from them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fairgate.routing.learning.best_of_heads import Heads
from fairgate.routing.learning.several_answers import (
    best_of_labels,
    fit_concentration,
    pairwise_accuracy,
)


def test_labels_are_means_over_all_ways_to_draw() -> None:
    rng = np.random.default_rng(3)
    scores, quality, reference = rng.random((4, 6)), rng.random((4, 6)), rng.random((4, 2))
    labels = best_of_labels(scores, quality, reference, 4)
    for i, n in itertools.product(range(4), range(1, 5)):
        as_good = []
        for drawn in itertools.combinations(range(6), n):
            best = max(drawn, key=lambda j: scores[i, j])
            as_good += [quality[i, best] >= r for r in reference[i]]
        assert labels[i, n - 1] == pytest.approx(np.mean(as_good))


def test_more_answers_than_are_recorded() -> None:
    with pytest.raises(ValueError, match=r"max_samples: expected at most 3 \(recorded\), got 4"):
        best_of_labels(np.ones((1, 3)), np.ones((1, 3)), np.ones((1, 1)), 4)


@pytest.mark.parametrize("concentration", [0.5, 2.0, 8.0])
def test_the_concentration_is_found_again(concentration: float) -> None:
    rng = np.random.default_rng(5)
    mean = rng.uniform(0.2, 0.8, 20_000)
    rates = rng.beta(mean * concentration, (1 - mean) * concentration)
    samples = np.full(len(mean), 5.0)
    found = fit_concentration(rng.binomial(5, rates).astype(float), samples, mean)
    assert found == pytest.approx(concentration, rel=0.1)


def test_the_accuracy_of_a_scorer_on_pairs() -> None:
    right = [np.array([1.0, 0.0, 0.0]), np.array([1.0, 1.0])]
    scores = [np.array([0.5, 0.1, 0.5]), np.array([0.0, 9.0])]
    assert pairwise_accuracy(scores, right) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="right and wrong"):
        pairwise_accuracy(scores[1:], right[1:])


def test_heads_learn_soft_labels() -> None:
    rng = np.random.default_rng(7)
    features = rng.normal(size=(3000, 3))
    weights = rng.normal(size=(4, 3))
    wanted = 1 / (1 + np.exp(-(features @ weights.T - 0.5)))
    heads = Heads.fit(("small", "middle"), features, wanted.reshape(3000, 2, 2), l2=1e-3)
    told = heads.predict(features[0])
    assert list(told) == ["small", "middle"]
    assert [*told["small"], *told["middle"]] == pytest.approx(wanted[0].tolist(), abs=1e-3)
    assert Heads.decode(heads.encode()) == heads


def test_labels_that_are_all_alike() -> None:
    heads = Heads.fit(("only",), np.ones((20, 2)), np.ones((20, 1, 1)))
    (chance,) = heads.predict(np.ones(2))["only"]
    assert 0.9 < chance <= 1
