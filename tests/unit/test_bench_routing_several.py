"""Labels of several answers of two real engines: how they are kept, and what is read from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fairgate.labelling.run import Label
from fairgate.routing.learning.several_answers import quality_labels
from tests.bench.routing_real import several, worth
from tests.bench.routing_real.__main__ import SCORERS
from tests.bench.routing_real.labelled import LARGE, SMALL


def test_answers_are_left_out_and_another_scorer_is_told_from_them(tmp_path: Path) -> None:
    file = tmp_path / "several.gz"
    by_logprob = {SMALL: [[0.5, 0.5], [1, 0]], LARGE: [[0.5, 0.5], [0, 1]]}
    label = Label(
        "Say 4.", {SMALL: [1, 0], LARGE: [0, 1]}, "language/fact",
        {SMALL: ["four 4", "my 5"], LARGE: ["4", "4"]}, by_logprob, "log-probability",
    )  # fmt: skip
    exam = Label("Is it A?", label.scores, "mmlu/law", label.answers, by_logprob, label.scorer)
    assert several.pack([label, exam], file) == 2
    assert several.load(file).prompts == ("Say 4.",)
    both = several.load(file, ["Is it A?"], "log-probability")
    assert both.prompts == ("Say 4.", "Is it A?")
    assert quality_labels(both)[0].tolist() == [[0.5, 1], [0.5, 1]]
    assert quality_labels(several.load(file))[0].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert quality_labels(several.load(file, scorer=several.CHECKED))[0, :, 1].tolist() == [1, 1]


@pytest.mark.parametrize("kappa", [0.25, 1.0, 4.0])
def test_the_fit_finds_how_much_answers_vary(kappa: float) -> None:
    rng = np.random.default_rng(5)
    mean = rng.uniform(0.1, 0.9, 1500)
    right = rng.binomial(8, rng.beta(kappa * mean, kappa * (1 - mean))).astype(float)
    found = worth.concentration(right, 8, mean)
    assert found.low < kappa < found.high
    assert found.high / found.low < 1.5


def test_a_prompt_does_not_tell_what_is_expected_of_itself() -> None:
    tasks = ("a", "a", "a", "b", "mmlu/x", "mmlu/y")
    expected = worth.means_of_tasks(np.array([1.0, 0, 0, 1, 1, 0]), tasks)
    assert expected[:3] == pytest.approx([1 / 4, 2 / 4, 2 / 4])
    assert expected[3] == pytest.approx(0.5), "the only one of its task"
    assert expected[4:] == pytest.approx([1 / 3, 2 / 3]), "subjects of MMLU are one task"


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_shipped_labels_say_what_each_scorer_picks(scorer: str) -> None:
    records = several.load(several.SHIPPED, scorer=scorer)
    assert (records.models, records.most, records.samples.shape[2]) == ((SMALL, LARGE), 5, 8)
    assert records.chosen.sum(axis=3) == pytest.approx(1)
    small, large = quality_labels(records).mean(axis=0)
    assert small[0] < large[0]
    assert large[-1] > large[0], "the more answers, the better the best one"


def test_what_is_believed_comes_from_artefacts_that_had_not_seen_the_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worth, "FOLDS", 2)
    records = several.load(several.SHIPPED, scorer=several.CHECKED).take(np.arange(120))
    judged = worth.unseen(records)
    wrong = records.samples.copy()
    wrong[0] = 1 - wrong[0]
    first = worth.unseen(replace(records, samples=wrong))
    for source in ("heads", "formula"):
        known = judged.believed[source][0]
        assert first.believed[source][0] == pytest.approx(known), source
    (row, *_) = worth.asked(records, judged, 10.0, threshold=0.0)
    assert row["small 1, 2, …; large"].startswith("100%"), "the cheapest will do"
    (row, *_) = worth.asked(records, judged, 10.0, threshold=1.0)
    assert row["cost"] == "1.00"
