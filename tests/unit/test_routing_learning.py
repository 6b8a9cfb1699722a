"""From records to decisions: training, artefacts, certificates, commands."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from support.routing import prompts, write_csv, write_lines
from typer.testing import CliRunner

from fairgate.cli import app
from fairgate.errors import ArtifactError, RecordsError
from fairgate.routing import artifact, tensors
from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.hybrid import Hybrid
from fairgate.routing.learned import LearnedPredictor
from fairgate.routing.learning import certifying, evaluation, records, training
from fairgate.routing.learning.labels import Method
from fairgate.routing.loading import load_predictor
from fairgate.routing.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> LearnedPredictor:
    folder = tmp_path_factory.mktemp("router")
    trained = training.train(records.load(write_csv(folder / "r.csv")), NGrams())
    artifact.save(trained.artifact, folder / "a.safetensors")
    return load_predictor(folder / "a.safetensors")


def test_hard_prompts_look_hard_to_the_small_model_only(predictor: Predictor) -> None:
    said = [(predictor.predict(text), hard) for text, hard in prompts(100, seed=9)]
    for model, low, high in (("small", 0.3, 0.75), ("large", 0.8, 0.8)):
        hard = np.mean([p.success[model] for p, is_hard in said if is_hard])
        easy = np.mean([p.success[model] for p, is_hard in said if not is_hard])
        assert hard < low or model == "large"
        assert easy > high
    assert all(p.enough["large"] == 1 for p, _ in said)
    assert all(p.support > 0.5 for p, _ in said)


def test_features_have_one_length(predictor: Predictor) -> None:
    assert predictor.features("").shape == predictor.features("word " * 3000).shape


def test_what_training_never_saw_goes_large(predictor: LearnedPredictor) -> None:
    said = predictor.predict("你好 请问今天天气怎么样")
    assert said.support == 0
    assert Hybrid(predictor.artifact).choose(said, 0.01) == "large"
    assert Hybrid(predictor.artifact).choose(said, 0) == "small"


def test_the_knob_is_the_share_of_large_calls(predictor: LearnedPredictor) -> None:
    hybrid = Hybrid(predictor.artifact, least_support=0)
    said = [predictor.predict(text) for text, _ in prompts(400, seed=4)]
    shares = [
        np.mean([hybrid.choose(p, q) == "large" for p in said]) for q in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares[2] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("method", ["gap", "det", "prob", "trans"])
def test_every_method_routes_three_models(tmp_path: Path, method: Method) -> None:
    outcomes = records.load(write_lines(tmp_path / "r.jsonl"))
    assert outcomes.models == ("tiny", "middle", "huge")
    trained = training.train(outcomes, NGrams(), method)
    artifact.save(trained.artifact, tmp_path / "a.safetensors")
    predictor = load_predictor(tmp_path / "a.safetensors")
    hybrid = Hybrid(predictor.artifact, least_support=0)
    said = [(predictor.predict(text), hard) for text, hard in prompts(60, seed=3)]
    easy = [hybrid.choose(p, 0.5) for p, hard in said if not hard]
    assert easy.count("tiny") > len(easy) * 0.6
    assert [p.enough["tiny"] for p, hard in said if hard] < [1.0]
    assert np.mean([p.enough["tiny"] for p, hard in said if hard]) < np.mean(
        [p.enough["tiny"] for p, hard in said if not hard]
    )


def test_saving_and_loading_changes_nothing(predictor: LearnedPredictor, tmp_path: Path) -> None:
    artifact.save(predictor.artifact, tmp_path / "again.safetensors")
    again = load_predictor(tmp_path / "again.safetensors")
    assert again.version == predictor.version
    assert again.predict("a song of the sea") == predictor.predict("a song of the sea")


def test_training_twice_gives_the_same_artefact(tmp_path: Path) -> None:
    outcomes = records.load(write_csv(tmp_path / "r.csv"))
    first, second = (training.train(outcomes, NGrams()).artifact.version() for _ in range(2))
    assert first == second


def test_the_shipped_artefact_loads_and_is_small() -> None:
    predictor = load_predictor()
    assert predictor.models == ("small", "large")
    assert artifact.SHIPPED.stat().st_size < 1_500_000
    easy = predictor.predict("What is the capital of France?")
    assert 0 < easy.success["small"] < 1


def _change(path: Path, name: str, array: np.ndarray | None = None, **description: object) -> None:
    arrays, metadata = tensors.read(artifact.SHIPPED)
    if array is not None:
        arrays[name] = array
    elif name:
        del arrays[name]
    meta = json.loads(metadata["fairgate-router"]) | description
    tensors.write(path, arrays, {"fairgate-router": json.dumps(meta)})


@pytest.mark.parametrize(
    ("name", "array", "description", "message"),
    [
        ("bias", None, {}, "bias: is missing"),
        ("bias", np.zeros(7, np.float32), {}, r"bias: expected the shape \(2,\), got \(7,\)"),
        ("bias", np.array([1, np.nan], np.float32), {}, "bias: expected finite numbers, got nan"),
        ("support.words", None, {}, "support.words: expected 524288 bits, got None"),
        ("", None, {"format": 9}, "format: expected 1 or 2, got 9"),
        ("", None, {"encoder": "elmo"}, "encoder: expected one of ngrams, minilm, got 'elmo'"),
        ("", None, {"models": ["one"]}, r"models: expected two or more, got \['one'\]"),
        ("", None, {"models": 3}, r"fairgate-router: Expected `array`, got `int` - at `\$.models`"),
        ("rarity", np.zeros(4, np.float16), {}, r"table: expected the shape \(2, 4\)"),
    ],
)
def test_bad_artefacts_are_refused_by_field(
    tmp_path: Path,
    name: str,
    array: np.ndarray | None,
    description: dict[str, object],
    message: str,
) -> None:
    _change(tmp_path / "bad.safetensors", name, array, **description)
    with pytest.raises(ArtifactError, match=message):
        load_predictor(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a safetensors file"),
        (b"\x80\x04pickle", "not a safetensors file"),
        (b"\x02" + bytes(7) + b"[]", "header: Expected `object`"),
        (b"\x02" + bytes(7) + b"{}", "no metadata 'fairgate-router'"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ArtifactError, match=message):
        load_predictor(tmp_path / "x")


def test_tensors_outside_of_the_file_are_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ArtifactError, match=r"a: data_offsets: \[0, 16\] outside of 8 bytes"):
        tensors.read(tmp_path / "x")


HEADER = "task,prompt,weak_correct,strong_correct\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task,prompt,weak_correct\n", "column 'strong_correct' is missing"),
        (HEADER + "a,b,1,yes\n", "line 2: strong_correct: expected a number in 0..1, got 'yes'"),
        (HEADER + "a,b,1\n", "line 2: strong_correct: expected a number in 0..1, got None"),
        (HEADER, "holds no records"),
        ('{"prompt": "a", "scores": {"x": 2, "y": 1}}', "record 1: scores.x: expected a number"),
        ('{"prompt": "a", "scores": {"x": []}}', "record 1: scores.x: expected at least one"),
        ('{"prompt": "a", "scores": {"x": [1], "y": [0, 1]}}', r"as many samples everywhere"),
        ('{"prompt": "a", "scores": {"x": 1}}\n{"prompt": 5}', "line 2: Expected `str`, got `int`"),
        (
            '{"prompt": "a", "scores": {"x": 1}}\n{"prompt": "b", "scores": {"y": 1}}',
            r"record 2: scores: expected \['x'\], got \['y'\]",
        ),
    ],
)
def test_bad_records_are_refused_by_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r").write_text(text)
    with pytest.raises(RecordsError, match=message):
        records.load(tmp_path / "r")


def test_gzipped_records_are_read_and_prices_order_models(tmp_path: Path) -> None:
    plain = write_lines(tmp_path / "r.jsonl", count=60)
    packed = tmp_path / "r.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    prices = {"huge": 1.0, "tiny": 2.0, "middle": 3.0}
    loaded = records.load(packed, prices)
    assert loaded.models == ("huge", "tiny", "middle")
    assert loaded.quality.shape == (60, 3)
    assert loaded.samples[:, 1].tolist() == records.load(plain).samples[:, 0].tolist()


def test_too_few_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="expected at least 50, got 20"):
        training.train(records.load(write_csv(tmp_path / "r.csv", count=20)), NGrams())


def test_a_promise_is_kept_in_the_artefact(predictor: LearnedPredictor, tmp_path: Path) -> None:
    unseen = records.load(write_csv(tmp_path / "more.csv", count=2000, seed=50))
    found = certifying.certify(predictor, unseen, 0.05, 0.95)
    made = certifying.with_promise(predictor.artifact, found)
    artifact.save(made, tmp_path / "a.safetensors")
    promised = load_predictor(tmp_path / "a.safetensors")
    assert promised.version != predictor.version
    hybrid = Hybrid(promised.artifact)
    fresh = records.load(write_csv(tmp_path / "fresh.csv", count=2000, seed=70))
    small, large = fresh.quality.T
    routed = np.array(
        [hybrid.promised(promised.predict(p), 0.05) == "small" for p in fresh.prompts]
    )
    assert routed.mean() > 0.2
    assert (large - small)[routed].sum() / large.sum() <= 0.05
    with pytest.raises(ArtifactError, match=r"none of drop <= 0.01; certified: 0.05"):
        hybrid.promised(promised.predict("x"), 0.01)


def test_evaluate_finds_what_was_learned(predictor: LearnedPredictor, tmp_path: Path) -> None:
    fresh = records.load(write_csv(tmp_path / "fresh.csv", count=600, seed=33))
    found = evaluation.evaluate(predictor, fresh)
    assert found.apgr > 0.68
    assert found.cpt50 < 0.35
    assert found.auc > 0.75
    assert found.ece < 0.1
    assert found.n == 600


def test_the_commands(tmp_path: Path) -> None:
    def run(*words: object) -> str:
        result = CliRunner().invoke(app, ["router", *map(str, words)])
        assert result.exit_code == 0, result.output
        return result.output

    data, made = write_csv(tmp_path / "r.csv"), tmp_path / "a.safetensors"
    assert "400 records of small, large" in run("train", data, "--out", made, "--method", "det")
    fresh = write_csv(tmp_path / "fresh.csv", seed=20)
    said = json.loads(run("evaluate", fresh, "--artifact", made, "--json"))
    assert said["n"] == 400
    assert said["apgr"] > 0.65
    assert set(said["decision_us"]) == {"p50", "p99"}
    assert {"cpt50", "cpt80", "auc", "ece"} < set(said)
    report = run("calibrate", fresh, "--artifact", made, "--drop", "0.1", "--out", made)
    assert "of calls go to small" in report
    assert "with 800 labels expect" in report
    assert load_predictor(made).artifact.description.promises[0].labels == 400
    assert "goes to      small" in run("explain", "song about bread", "--quality", "0")
    assert json.loads(run("evaluate", fresh, "--json"))["artifact"] == load_predictor().version


def test_commands_say_what_is_wrong(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["router", "evaluate", str(tmp_path / "none.csv")])
    assert result.exit_code == 1
    assert "cannot be read" in result.output
