"""The sections ``best_of`` and ``cascade`` of a pool."""

from __future__ import annotations

from typing import Any

import pytest

from fairgate.config import reading
from fairgate.errors import ConfigError
from fairgate.placement import check_mounted


def problems(section: dict[str, Any], **top: Any) -> list[str]:
    lanes = {
        name: {"engines": [{"type": "http", "url": f"http://127.0.0.1:{port}"}]}
        for name, port in (("small", 1), ("large", 2))
    }
    try:
        reading.convert({"pools": {"main": {"lanes": lanes, **section}}, **top}, source="")
    except ConfigError as error:
        return error.problems
    return []


def test_every_scorer_has_a_name() -> None:
    scorers: list[dict[str, Any]] = [
        {"type": "log-probability"},
        {"type": "self-consistency"},
        {"type": "agreement"},
        {"type": "verifier", "function": "my.module:verify", "timeout_s": 1},
        {"type": "http", "url": "http://127.0.0.1:9/score", "api_key": "k"},
    ]
    for scorer in scorers:
        cascade = {"first": "small", "then": "large", "below": -1, "scorer": scorer}
        best_of = {"samples": {"small": 2}, "scorer": scorer}
        assert problems({"best_of": best_of, "cascade": cascade}) == []


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        (
            {"best_of": {"samples": {"smal": 2}}},
            "pools.main.best_of.samples.smal: no lane is named 'smal'; did you mean 'small'?",
        ),
        (
            {"best_of": {"samples": {"small": 6}}},
            "pools.main.best_of.samples.small: expected at most max_samples (5), got 6",
        ),
        (
            {"best_of": {"max_samples": 9}},
            "pools.main.best_of.max_samples: expected at most max_choices (8), got 9",
        ),
        (
            {"best_of": {"scorer": {"type": "http", "url": "ftp://x"}}},
            "pools.main.best_of.scorer.url: expected an http:// or https:// address, "
            "got scheme 'ftp'",
        ),
        (
            {"cascade": {"first": "small", "then": "small", "below": 0}},
            "pools.main.cascade.then: expected another lane than first, got 'small'",
        ),
        (
            {"cascade": {"first": "tiny", "then": "large", "below": 0}},
            "pools.main.cascade.first: no lane is named 'tiny'",
        ),
    ],
)
def test_what_is_wrong_is_said(section: dict[str, Any], problem: str) -> None:
    assert problems(section, max_choices=8) == [problem]


def test_a_verifier_that_is_no_path() -> None:
    (problem,) = problems({"best_of": {"scorer": {"type": "verifier", "function": "verify"}}})
    assert problem.startswith("pools.main.best_of.scorer.function: ")


def test_a_mounted_fairgate_sends_nothing_to_engines() -> None:
    lanes = {"app": {"engines": [{"type": "app"}]}}
    config = reading.convert(
        {"pools": {"main": {"lanes": lanes, "best_of": {}}}}, source="fairgate.yaml"
    )
    with pytest.raises(ConfigError, match=r"pools\.main\.best_of: only 'fairgate serve'"):
        check_mounted(config)
