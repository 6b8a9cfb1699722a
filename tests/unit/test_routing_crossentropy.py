"""Heads trained by cross-entropy: they learn, are kept in an artefact, and serve without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.routing import prompts, write_csv, write_lines
from typer.testing import CliRunner

from fairgate.cli import app
from fairgate.routing import artifact
from fairgate.routing.learning.labels import Method
from fairgate.routing.loading import load_predictor

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # threads that wait for each other take seconds on a busy machine


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    from fairgate.routing.learning import crossentropy

    monkeypatch.setattr(crossentropy, "EPOCHS", 12)


def train(data: Path, out: Path, method: Method) -> None:
    options = ["--out", str(out), "--method", method, "--trainer", "torch"]
    ran = CliRunner().invoke(app, ["router", "train", str(data), *options])
    assert ran.exit_code == 0, ran.output


def test_it_learns_what_is_hard(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    train(write_csv(tmp_path / "r.csv", 300), file, "det")
    made = load_predictor(file)
    assert (made.artifact.description.format, made.artifact.heads.logistic) == (2, True)
    said = [(made.predict(text), hard) for text, hard in prompts(100, seed=9)]
    for what in ("success", "enough"):
        hard = np.mean([getattr(p, what)["small"] for p, is_hard in said if is_hard])
        easy = np.mean([getattr(p, what)["small"] for p, is_hard in said if not is_hard])
        assert hard < 0.45 < 0.65 < easy


@pytest.mark.parametrize("method", ["prob", "trans"])
def test_soft_labels_of_three_models_give_scores_in_order(tmp_path: Path, method: Method) -> None:
    file = tmp_path / "a.safetensors"
    train(write_lines(tmp_path / "r.jsonl", 150), file, method)
    made = load_predictor(file)
    said = [(made.predict(text).enough["tiny"], hard) for text, hard in prompts(60, seed=9)]
    assert all(0 < score < 1 for score, _ in said)
    hard, easy = (np.mean([s for s, is_hard in said if is_hard == h]) for h in (True, False))
    assert hard < easy


def test_serving_needs_no_torch(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    train(write_csv(tmp_path / "r.csv", 60), file, "gap")
    text, _ = prompts(1, seed=9)[0]
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from fairgate.routing.loading import load_predictor\n"
        f"print(load_predictor(Path({str(file)!r})).predict({text!r}).enough['small'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert float(ran.stdout) == pytest.approx(load_predictor(file).predict(text).enough["small"])


def test_training_twice_gives_the_same_artefact(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "r.csv", 60)
    for name in ("a", "b"):
        train(data, tmp_path / name, "gap")
    first, second = (artifact.load(tmp_path / name).version() for name in ("a", "b"))
    assert first == second
