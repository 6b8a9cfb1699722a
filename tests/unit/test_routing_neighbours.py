"""Probabilistic neighbours: right where labels are near, unsure where nothing is."""

from __future__ import annotations

import numpy as np
import pytest

from fairgate.routing.neighbours import Neighbours

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # threads that wait for each other take seconds on a busy machine

CENTERS = np.array([[3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0]], np.float32)


def points(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    return (CENTERS[labels] + random.normal(0, 0.5, (count, 4))).astype(np.float32), labels


@pytest.fixture(scope="module")
def trained() -> Neighbours:
    from fairgate.routing.learning import pnca

    return pnca.fit(*points(60, seed=0), classes=3)


def test_few_labels_tell_families_apart(trained: Neighbours) -> None:
    x, labels = points(200, seed=1)
    said = trained.probabilities(x)
    assert np.allclose(said.sum(axis=1), 1, atol=1e-5)
    assert (said.argmax(axis=1) == labels).mean() > 0.95


def test_far_from_all_labels_it_is_less_sure(trained: Neighbours) -> None:
    near, _ = points(200, seed=2)
    far = np.random.default_rng(3).normal(0, 12, (200, 4)).astype(np.float32)
    assert trained.probabilities(far).max(axis=1).mean() < (
        trained.probabilities(near).max(axis=1).mean() - 0.2
    )
    assert trained.support(far).mean() < trained.support(near).mean() / 2


def test_without_any_support_every_class_is_as_likely(trained: Neighbours) -> None:
    nothing = Neighbours(
        trained.layers,
        trained.frequencies,
        trained.phases,
        np.zeros_like(trained.memory),
        trained.labels,
        trained.classes,
    )
    x, _ = points(5, seed=4)
    assert np.allclose(nothing.probabilities(x), 1 / 3)
    assert (nothing.support(x) == 0).all()


def test_the_same_seed_gives_the_same_classifier() -> None:
    from fairgate.routing.learning import pnca

    x, labels = points(30, seed=5)
    first, second = (pnca.fit(x, labels, 3, seed=7).probabilities(x) for _ in range(2))
    assert (first == second).all()
