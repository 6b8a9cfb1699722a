"""BEST-Route's heads: labels from recorded answers, what is learned from them, and the artefact."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.routing import prompts, write_several
from typer.testing import CliRunner

from fairgate.cli import app
from fairgate.errors import ArtifactError, RecordsError
from fairgate.routing import tensors
from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.learned import LearnedPredictor
from fairgate.routing.learning import records, training
from fairgate.routing.learning.best_of_heads import fit_best_of, logistic
from fairgate.routing.learning.frontier import drops
from fairgate.routing.learning.records import Records, folds
from fairgate.routing.learning.several_answers import (
    as_good_labels,
    chosen_by_score,
    fit_concentration,
    pairwise_accuracy,
    quality_labels,
)
from fairgate.routing.learning.several_ways import costs_of, single_answers
from fairgate.routing.loading import load_predictor


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_several(tmp_path_factory.mktemp("labels") / "l.jsonl", 400)


@pytest.fixture(scope="module")
def trained(labels: Path) -> Path:
    file = labels.with_name("a.safetensors")
    assert "heads for 1 to 3 answers, picked by verifier" in fairgate(
        "train", labels, "--out", file
    )
    return file


def fairgate(*words: object, code: int = 0) -> str:
    ran = CliRunner().invoke(app, ["router", *map(str, words)])
    assert ran.exit_code == code, ran.output
    return ran.output


def test_labels_are_means_over_all_ways_to_draw() -> None:
    rng = np.random.default_rng(3)
    scores, quality = rng.random((4, 2, 6)), rng.random((4, 2, 6)).astype(np.float32)
    of = Records(("s", "l"), ("",) * 4, ("",) * 4, quality, chosen_by_score(scores, 4))
    as_good, right = as_good_labels(of), quality_labels(of)
    assert as_good.shape == (4, 1, 4)
    for i, n in itertools.product(range(4), range(1, 5)):
        drawn = list(itertools.combinations(range(6), n))
        best = [max(some, key=lambda j: scores[i, 0, j]) for some in drawn]
        wins = [quality[i, 0, b] >= r for b in best for r in quality[i, 1]]
        assert as_good[i, 0, n - 1] == pytest.approx(np.mean(wins))
        assert right[i, 0, n - 1] == pytest.approx(np.mean([quality[i, 0, b] for b in best]))


def test_more_answers_than_are_recorded() -> None:
    with pytest.raises(ValueError, match=r"most: expected at most 3 \(recorded\), got 4"):
        chosen_by_score(np.ones((1, 1, 3)), 4)


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


def test_logistic_regression_learns_soft_labels() -> None:
    rng = np.random.default_rng(7)
    features = rng.normal(size=(3000, 3))
    true = rng.normal(size=(3, 4))
    wanted = 1 / (1 + np.exp(-(features @ true - 0.5)))
    weights, bias = logistic(features, wanted, 1e-3)
    assert weights == pytest.approx(true, abs=0.02)
    assert bias == pytest.approx(np.full(4, -0.5), abs=0.02)


def made_up(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, Records]:
    """Form, scores and records in which the chance of a right answer is known."""
    rng = np.random.default_rng(seed)
    form = rng.normal(size=(count, 4)).astype(np.float32) / 2
    scores = rng.random((count, 2)).astype(np.float32)
    chance = 1 / (1 + np.exp(-(2 * form[:, 0] + 3 * scores[:, 0] - 1.5)))
    small = rng.random((count, 1, 8)) < chance[:, None, None]
    answers = np.concatenate([small, np.ones((count, 1, 8))], axis=1).astype(np.float32)
    texts = tuple(f"prompt {seed} {i}" for i in range(count))
    luck = rng.normal(size=answers.shape)
    of = Records(("s", "l"), texts, texts, answers, chosen_by_score(answers + luck, 3), "verifier")
    return form, scores, of


def test_heads_are_calibrated_on_prompts_that_they_never_saw() -> None:
    form, scores, known = made_up(2000, seed=1)
    heads = fit_best_of(form, scores, known, folds(known, 5))
    form, scores, fresh = made_up(4000, seed=2)
    said = [heads.judge(f, s) for f, s in zip(form, scores, strict=True)]
    wanted = as_good_labels(fresh)[:, 0]
    for n in range(3):
        told = np.array([one.as_good["s"][n] for one in said])
        assert told.mean() == pytest.approx(wanted[:, n].mean(), abs=0.02)
        assert np.corrcoef(told, wanted[:, n])[0, 1] > 0.6
        for low in (0.2, 0.4, 0.6):
            near = (told >= low) & (told < low + 0.2)
            assert wanted[near, n].mean() == pytest.approx(told[near].mean(), abs=0.05)
    assert all(one.right["l"][0] > 0.95 for one in said[:50])


def test_labels_that_are_all_alike() -> None:
    form, scores, known = made_up(60, seed=1)
    for value in (0.0, 1.0):
        alike = dataclasses.replace(known, samples=np.full_like(known.samples, value))
        said = fit_best_of(form, scores, alike, folds(alike, 5)).judge(form[0], scores[0])
        assert said.as_good["s"] == pytest.approx([1, 1, 1], abs=0.05)
        assert said.right["s"] == pytest.approx([value] * 3, abs=0.05)


def test_an_artefact_holds_heads_and_serves_them_without_torch(trained: Path) -> None:
    made = load_predictor(trained)
    assert made.best_of is not None
    assert (made.best_of.samples, made.best_of.scorer, made.best_of.labels) == (3, "verifier", 400)
    text = "Question 7 about lemma kernel?"
    said = made.predict(text).several
    assert said is not None
    assert set(said.as_good) == {"small"}
    assert set(said.right) == {"small", "large"}
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from fairgate.routing.loading import load_predictor\n"
        f"print(*load_predictor(Path({str(trained)!r})).predict({text!r}).several.as_good['small'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert [float(p) for p in ran.stdout.split()] == pytest.approx(said.as_good["small"])


def test_what_is_hard_needs_more_answers(trained: Path) -> None:
    made = load_predictor(trained)
    told: dict[bool, list[list[float]]] = {True: [], False: []}
    for text, hard in prompts(60, seed=9):
        said = made.predict(text).several
        assert said is not None
        told[hard].append(list(said.as_good["small"]))
    easy, hard_ones = np.mean(told[False], axis=0), np.mean(told[True], axis=0)
    assert easy[0] > 0.8
    assert hard_ones[0] < 0.5 < hard_ones[2]


def test_training_again_gives_the_same_artefact_and_other_heads_another(labels: Path) -> None:
    of = records.load(labels)
    first, second = (training.train(of, NGrams()).artifact for _ in range(2))
    assert first.version() == second.version()
    plain = dataclasses.replace(of, chosen=records.NOTHING, scorer="")
    without = training.train(plain, NGrams()).artifact
    assert without.best_of is None
    assert without.version() != first.version()
    assert LearnedPredictor(without, NGrams()).predict("a dog?").several is None


def test_records_of_several_answers_are_read(labels: Path) -> None:
    of = records.load(labels)
    assert (of.most, of.scorer) == (3, "verifier")
    assert of.chosen.shape == (400, 2, 3, 6)
    few = of.take(np.arange(5)).only(("large",))
    assert few.chosen.tolist() == of.chosen[:5, 1:].tolist()


GOOD: dict[str, Any] = {
    "prompt": "a", "scores": {"x": [0, 1], "y": [1, 1]}, "scorer": "agreement",
    "chosen": {"x": [[0.5, 0.5], [0, 1]], "y": [[0.5, 0.5], [0, 1]]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": {}}, r"record 2: chosen: expected \['x', 'y'\], got \[\]"),
        (
            {"chosen": GOOD["chosen"] | {"x": [[1, 0]]}},
            "record 2: chosen.x: expected a list for 1 to 2 answers, got 1 lists",
        ),
        (
            {"chosen": GOOD["chosen"] | {"x": [[1], [1]]}},
            r"record 2: chosen.x: expected 2 chances \(scores\), got 1",
        ),
        (
            {"chosen": GOOD["chosen"] | {"x": [[0.5, 0.5], [0.5, 0.2]]}},
            r"record 2: chosen.x: expected chances that sum to 1, got \[0.5, 0.2\]",
        ),
        (
            {"chosen": GOOD["chosen"] | {"x": [[0.5, 0.5], [-1, 2]]}},
            r"record 2: chosen.x: expected chances that sum to 1, got \[-1.0, 2.0\]",
        ),
        ({"scorer": "http"}, r"scorer: the same everywhere, got \['agreement', 'http'\]"),
    ],
)
def test_bad_records_are_refused_by_field(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | change))
    with pytest.raises(RecordsError, match=message):
        records.load(file)


@pytest.mark.parametrize(
    ("name", "array", "learned", "message"),
    [
        ("best_of.bias", None, {}, "best_of.bias: is missing"),
        ("best_of.bias", np.zeros(2, np.float32), {}, r"best_of.bias: expected the shape \(9,\)"),
        (
            "best_of.weights",
            np.zeros((9, 500), np.float32),
            {},
            "best_of.weights: expected at most 400 features and 2 scores, got 500 numbers",
        ),
        ("", None, {"samples": 0}, "samples: expected at least 1, got 0"),
        ("", None, {"samples": 4}, r"best_of.weights: expected the shape \(12, None\)"),
        ("", None, {"scorer": 5}, "fairgate-best-of: Expected `str`, got `int`"),
    ],
)
def test_bad_heads_are_refused_by_field(
    trained: Path, tmp_path: Path, name: str, array: Any, learned: dict[str, Any], message: str
) -> None:
    arrays, metadata = tensors.read(trained)
    if array is not None:
        arrays[name] = array
    elif name:
        del arrays[name]
    told = json.loads(metadata["fairgate-best-of"]) | learned
    tensors.write(tmp_path / "bad", arrays, metadata | {"fairgate-best-of": json.dumps(told)})
    with pytest.raises(ArtifactError, match=message):
        load_predictor(tmp_path / "bad")


def test_evaluate_shows_heads_beside_formula_and_single_answers(
    trained: Path, tmp_path: Path
) -> None:
    fresh = write_several(tmp_path / "f.jsonl", 400, seed=9)
    prices = tmp_path / "prices.json"
    prices.write_text('{"small": 1, "large": 10}')
    asked = ["evaluate", fresh, "--artifact", trained]
    said = json.loads(fairgate(*asked, "--prices", prices, "--json"))["best_of"]
    assert said["samples"] == 3
    assert said["cuts"] == [0.2, 0.4, 0.6]
    assert said["heads"][2] <= 0.8 * said["one"][2]
    assert said["heads"][2] <= said["formula"][2] + 0.01
    assert said["ece"] < 0.1
    assert json.loads(fairgate(*asked, "--json"))["best_of"] is None
    prices.write_text('{"small": 0, "large": 10}')
    assert "prices: small: expected > 0, got 0" in fairgate(*asked, "--prices", prices, code=1)
    assert "best of 1, 2, … as good as large: 0." in fairgate(
        "explain", "dog?", "--artifact", trained
    )


def test_a_reference_that_is_worth_nothing_has_no_drop() -> None:
    outcome = np.zeros((5, 3))
    assert np.isnan(drops(outcome, outcome, np.array([0.1, 0.2, 1.0]), "threshold")).all()


def test_ways_are_lane_by_lane() -> None:
    costs = costs_of({"a": 1, "b": 2, "l": 10}, ("a", "b", "l"), 2)
    assert costs.tolist() == [0.1, 0.2, 0.2, 0.4, 1.0]
    assert single_answers(2, len(costs)).tolist() == [0, 2, 4]
