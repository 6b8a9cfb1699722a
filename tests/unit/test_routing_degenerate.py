"""Records that hardly tell anything: commands say what is wrong with them, or are right."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.routing import write_csv
from typer.testing import CliRunner

from fairgate.cli import app
from fairgate.errors import RecordsError
from fairgate.routing import artifact
from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.hybrid import Hybrid
from fairgate.routing.learning import certifying, evaluation, records, training
from fairgate.routing.learning.labels import Method
from fairgate.routing.learning.promise import sweep
from fairgate.routing.loading import load_predictor

SCORE = st.sampled_from([0.0, 1.0]) | st.floats(0, 1)
UNIT = st.sampled_from([0.0, 1.0]) | st.floats(0, 1, width=32)


def pairs_of(size: st.SearchStrategy[int]) -> st.SearchStrategy[list[list[float]]]:
    """Score, small and large of each prompt; of each all may be alike."""
    column = size.flatmap(
        lambda n: st.tuples(
            *(st.lists(SCORE, min_size=n, max_size=n) | SCORE.map(lambda x: [x] * n),) * 3
        )
    )
    return column.map(lambda columns: [list(column) for column in columns])


@settings(max_examples=150)
@given(pairs_of(st.integers(1, 60)), st.sampled_from([0.0, 0.01, 0.2, 1.0]))
def test_a_sweep_is_finite_or_says_that_the_large_model_is_never_right(
    columns: list[list[float]], limit: float
) -> None:
    score, small, large = columns
    if sum(large) / len(large) < 1e-6:
        with pytest.raises(RecordsError, match="large: expected a mean score above 0, got "):
            sweep(score, small, large)
        return
    found = sweep(score, small, large)
    for numbers in (found.share, found.drop, found.error, found.bound(0.95)):
        assert np.isfinite(numbers).all()
    assert found.share[-1] == 1
    lost = (sum(large) - sum(small)) / sum(large)
    assert found.drop[-1] == pytest.approx(lost, abs=1e-6 * max(1.0, abs(lost)))
    step = found.certified(limit)
    assert step is None or found.bound(0.95)[step] <= limit


@pytest.mark.parametrize(
    ("score", "small", "large", "message"),
    [
        ([], [], [], "score: expected a finite number for each prompt, got none"),
        ([math.nan], [1], [1], "score: expected a finite number for each prompt, got nan"),
        ([1], [math.inf], [1], "small: expected a finite number for each prompt, got inf"),
        ([1, 1], [1, 1], [1, math.nan], "large: expected a finite number for each prompt, got nan"),
        ([1, 1], [1, 0], [0, 0], "large: expected a mean score above 0, got 0 of 2 prompts"),
    ],
)
def test_a_sweep_over_what_is_no_number(
    score: list[float], small: list[float], large: list[float], message: str
) -> None:
    with pytest.raises(RecordsError, match=message):
        sweep(score, small, large)


def write(path: Path, rows: list[tuple[str, float, float]]) -> Path:
    lines = [
        json.dumps({"prompt": prompt, "task": "t", "scores": {"small": small, "large": large}})
        for prompt, small, large in rows
    ]
    path.write_text("\n".join(lines))
    return path


PROMPT = st.sampled_from(["", "?!", "one", "the same words again"]) | st.text(max_size=12)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(PROMPT, UNIT, UNIT), min_size=1, max_size=4),
    alike=st.booleans(),
    method=st.sampled_from(["gap", "det", "prob", "trans"]),
)
def test_whatever_is_trained_on_serves_or_is_refused(
    tmp_path: Path, rows: list[tuple[str, float, float]], alike: bool, method: Method
) -> None:
    many = [(p if alike else f"{p} {i}", *scores) for i in range(15) for p, *scores in rows]
    data = records.load(write(tmp_path / "r.jsonl", many), {"small": 1, "large": 2})
    file = tmp_path / "a.safetensors"
    if len(many) < training.FEWEST or len(np.unique(records.folds(data, training.FOLDS))) < 2:
        with pytest.raises(RecordsError, match=r"^(records|prompt): "):
            training.train(data, NGrams(), method)
        return
    artifact.save(training.train(data, NGrams(), method).artifact, file)
    made = load_predictor(file)
    for prompt in ("", "one", many[0][0]):
        said = made.predict(prompt)
        for chance in (*said.success.values(), *said.enough.values(), said.support):
            assert 0 <= chance <= 1
        assert Hybrid(made.artifact).choose(said, 0.5) in made.models
    told = json.loads(evaluation.as_json(evaluation.evaluate(made, data)))
    if all(small == large for _, small, large in many):
        assert told["apgr"] is told["cpt50"] is told["auc"] is None, "nothing to tell apart"
    assert 0 <= told["ece"] <= 1


def run(*words: object) -> tuple[int, str]:
    ran = CliRunner().invoke(app, ["router", *map(str, words)])
    return ran.exit_code, ran.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    file = folder / "a.safetensors"
    outcomes = records.load(write_csv(folder / "r.csv", 120))
    artifact.save(training.train(outcomes, NGrams()).artifact, file)
    return file


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", 1, 0)] * 3, "scores.large: 0 for all 3 prompts; a drop is a share of the dearest"),
        ([("a", 0, 0)], "scores.large: 0 for all 1 prompts"),
    ],
)
def test_calibrate_says_that_the_dearest_is_never_right(
    made: Path, tmp_path: Path, rows: list[tuple[str, float, float]], message: str
) -> None:
    code, text = run("calibrate", write(tmp_path / "r", rows), "--artifact", made)
    assert (code, message in text) == (1, True), text


@pytest.mark.parametrize("rows", [[("a", 1, 1)], [("a", 0, 1)] * 80, [("a", 1, 1)] * 80])
def test_calibrate_with_labels_that_are_all_alike(
    made: Path, tmp_path: Path, rows: list[tuple[str, float, float]]
) -> None:
    of = records.load(write(tmp_path / "r", rows), {"small": 1, "large": 2})
    found = certifying.certify(load_predictor(made), of, 0.05, 0.95)
    small_is_as_good = rows[0][1] == 1
    if not small_is_as_good or len(rows) == 1:
        assert found.promise() is None, "chance alone may show this"
    assert all("nan" not in line for line in found.report())


@pytest.mark.parametrize(
    ("rows", "code", "message"),
    [
        ([("a", 1, 1)], 0, '"apgr":null'),
        ([("a", 0, 0)] * 9, 0, '"auc":null'),
        ([("a", 0, 1)], 0, '"cpt80":1.0'),
    ],
)
def test_evaluate_with_labels_that_are_all_alike(
    made: Path, tmp_path: Path, rows: list[tuple[str, float, float]], code: int, message: str
) -> None:
    assert run("evaluate", write(tmp_path / "r", rows), "--artifact", made, "--json")[0] == code
    said = run("evaluate", write(tmp_path / "r", rows), "--artifact", made, "--json")[1]
    assert message in said


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds no records"),
        ([{"prompt": "a", "scores": {"x": 1}}] * 60, r"scores: expected two models or more"),
        ([{"prompt": "a", "scores": {"x": 1, "y": 0}}] * 60, "prompt: too few different ones"),
        ([{"prompt": "a", "scores": {}}] * 60, "record 1: scores: expected two models or more"),
    ],
)
def test_train_says_what_is_missing(
    tmp_path: Path, lines: list[dict[str, Any]], message: str
) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text("\n" + "\n".join(map(json.dumps, lines)))
    code, text = run("train", file, "--out", tmp_path / "a")
    assert code == 1, text
    assert message in text
    assert not (tmp_path / "a").exists()
