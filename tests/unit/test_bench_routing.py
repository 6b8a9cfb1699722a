"""The routing bench judges promises and cascades as it says."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench.routing import cascade, promises
from tests.bench.routing.promises import Found, by_chance, drawn, resplit

SURE, NONE = promises.RULES["bound"], promises.RULES["point estimate"]


def records(count: int = 2000) -> tuple[promises.Floats, promises.Floats]:
    """Scores that tell in part where the large model alone is right."""
    random = np.random.default_rng(0)
    score = random.random(count)
    large = (random.random(count) < 0.8).astype(float)
    small = large * (random.random(count) < 0.6 + 0.4 * score)
    return score, np.stack([small, large], axis=1)


def test_the_bound_keeps_what_the_point_estimate_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promises, "DRAWN", 100)
    monkeypatch.setattr(promises, "RESPLITS", 100)
    score, quality = records()
    assert drawn(score, quality, 500, 0.05, SURE).broken <= 0.1
    assert drawn(score, quality, 500, 0.05, NONE).broken >= 0.3
    assert 0 < np.mean(resplit(score, quality, 500, 0.05, SURE).shares) < 1


def test_a_drop_at_the_limit_keeps_the_promise() -> None:
    assert Found(0.1, drops=[0.1, 0.05, 0.2, -1.0]).broken == 0.25


def test_chance_alone_breaks_more_the_fewer_records_are_left() -> None:
    assert by_chance(1, 10**9) == pytest.approx(0.05, abs=1e-6)
    assert by_chance(1000, 2000) == pytest.approx(0.1224, abs=1e-3)


def test_a_cascade_pays_for_both_calls() -> None:
    quality = np.array([[0.0, 1.0], [1.0, 1.0]] * 50)
    perfect = 1 - quality[:, 0]
    assert cascade.drop(perfect, quality, 0.4, first=True) == pytest.approx(0.0)
    assert cascade.drop(perfect, quality, 0.6, first=True) == pytest.approx(0.2)
    assert cascade.drop(perfect, quality, 0.6, first=False) == pytest.approx(0.17)
    assert cascade.drop(perfect, quality, 0.9, first=False) == pytest.approx(0.5)
