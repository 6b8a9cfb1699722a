"""The cold start: few labels of some families, and prompts that are of none of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from support.routing import EASY, HARD, prompts, write_csv
from typer.testing import CliRunner

from fairgate.cli import app
from fairgate.errors import ArtifactError, RecordsError
from fairgate.routing import artifact, tensors
from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.hybrid import Hybrid
from fairgate.routing.learned import LearnedPredictor
from fairgate.routing.learning import records, training
from fairgate.routing.loading import load_predictor

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # threads that wait for each other take seconds on a busy machine

LABELS = 80


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact trained from few labels by the command; of fewer networks, for less long."""
    from fairgate.routing.learning import pnca

    folder = tmp_path_factory.mktemp("cold")
    out = folder / "a.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pnca, "EPOCHS", 40)
        patch.setattr(pnca, "EMBEDDERS", 3)
        data = str(write_csv(folder / "r.csv", LABELS))
        ran = CliRunner().invoke(app, ["router", "train", data, "--out", str(out), "--cold-start"])
    assert ran.exit_code == 0, ran.output
    return out


@pytest.fixture(scope="module")
def predictor(file: Path) -> LearnedPredictor:
    return load_predictor(file)


def test_families_tell_how_well_each_model_does(predictor: LearnedPredictor) -> None:
    said = [(predictor.predict(text), hard) for text, hard in prompts(60, seed=9)]
    hard = np.mean([p.success["small"] for p, is_hard in said if is_hard])
    easy = np.mean([p.success["small"] for p, is_hard in said if not is_hard])
    assert hard < 0.4 < 0.7 < easy
    assert np.mean([p.support > 0.5 for p, _ in said]) > 0.9


def test_a_family_that_nobody_labelled_goes_large(predictor: LearnedPredictor) -> None:
    """Though all of its words are known."""
    hybrid, words = Hybrid(predictor.artifact), (*EASY, *HARD)
    strange = "\n".join(f"{word} {word.upper()} = {{{word}: '{word}'}};" for word in words)
    said = predictor.predict(strange)
    assert said.support < 0.5
    assert hybrid.choose(said, 0.01) == "large"
    assert hybrid.choose(said, 0) == "small"


def test_saving_and_loading_changes_next_to_nothing(file: Path, tmp_path: Path) -> None:
    first = load_predictor(file)
    artifact.save(first.artifact, tmp_path / "again.safetensors")
    again = load_predictor(tmp_path / "again.safetensors")
    assert again.version == first.version
    for text, _ in prompts(10, seed=3):
        assert again.predict(text) == first.predict(text)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("families.labels", np.full(LABELS, 7), r"families\.labels: expected 0\.\.1, got"),
        ("families.phases", np.zeros(3), r"families\.frequencies: expected the shape \(None, 3\)"),
        ("families.0.2.bias", np.zeros(4), r"families\.0\.2\.bias: expected the shape \(10,\)"),
        ("families.0.0.weights", None, r"families\.0\.0\.weights: is missing"),
    ],
)
def test_damage_is_refused_by_field(
    file: Path, tmp_path: Path, field: str, value: np.ndarray | None, message: str
) -> None:
    arrays, metadata = tensors.read(file)
    kept = {name: array for name, array in arrays.items() if name != field}
    if value is not None:
        kept[field] = value.astype(np.float32)
    tensors.write(tmp_path / "bad.safetensors", kept, metadata)
    with pytest.raises(ArtifactError, match=message):
        artifact.load(tmp_path / "bad.safetensors")


def test_what_it_cannot_learn_from_is_refused(tmp_path: Path) -> None:
    known = records.load(write_csv(tmp_path / "r.csv", LABELS))
    alone = replace(known, tasks=("one",) * LABELS)
    with pytest.raises(
        RecordsError, match=r"task: the cold start needs two or more, got \['one'\]"
    ):
        training.train(alone, NGrams(), cold=True)
    many = known.take(np.arange(LABELS).repeat(26))
    with pytest.raises(RecordsError, match="the cold start takes at most 2000, got 2080"):
        training.train(many, NGrams(), cold=True)


def test_readers_of_the_usual_format_refuse_it(file: Path) -> None:
    _, metadata = tensors.read(file)
    assert msgspec.json.decode(metadata["fairgate-router"])["format"] == artifact.NEWER_FORMAT
