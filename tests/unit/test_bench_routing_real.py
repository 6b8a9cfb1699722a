"""The labels of two real engines: their prompts can be made again, their checks can be passed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fairgate.config.reading import convert
from fairgate.labelling.exact import Check, passes
from fairgate.labelling.run import Label, Prompt
from tests.bench.routing_real import labelled, tasks
from tests.bench.routing_real.__main__ import SEED, TENANTS
from tests.bench.routing_real.plan import split
from tests.bench.routing_real.recorded import Knob, figures, goes_small, trained
from tests.bench.routing_real.through import configuration, running

FEW = 100


def test_the_same_seed_makes_the_same_prompts_and_another_makes_others() -> None:
    first, again = (list(tasks.generated(7, FEW)) for _ in range(2))
    assert first == again
    assert len({prompt.prompt for prompt in first}) == FEW
    assert first != list(tasks.generated(8, FEW))
    assert {prompt.task for prompt in first} >= {"arithmetic/add", "language/fact", "code/truth"}


def test_the_shipped_labels_are_those_of_the_generators_prompts() -> None:
    kept = labelled.load(labelled.SHIPPED)
    made = {prompt.prompt: prompt for prompt in tasks.generated(SEED, len(kept.checks))}
    assert set(kept.records.prompts) == set(made)
    for text, check in zip(kept.records.prompts, kept.checks, strict=True):
        assert made[text].check == check
    small, large = kept.records.quality.T
    assert 0.1 < small.mean() < large.mean() < 0.6


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (tasks.add(tasks.Random(1), 2)[1], "It is {number}.", "It is 1."),
        (tasks.prime(tasks.Random(1), 2)[1], "No, it is not.", "Yes or no."),
        (tasks.truth(tasks.Random(4), 0)[1], "False", "True and False"),
        (tasks.printed("print('fern'.upper())", "FERN")[1], "It prints FERN", "FERN is printed"),
        (tasks.printed("print('fern'.upper())", "FERN")[1], "'FERN'", "fern"),
    ],
)
def test_checks_take_what_is_right_and_nothing_else(check: Check, right: str, wrong: str) -> None:
    assert passes(check, right.format(number=check.number))
    assert not passes(check, wrong)


def test_exam_questions_are_kept_without_their_words(tmp_path: Path) -> None:
    asked = [
        Prompt("What is 1 + 1?", task="gsm8k", check=Check(number=2)),
        Prompt("Say hello.", task="language/fact", check=Check(contains=("hello",))),
    ]
    answers = [
        {labelled.SMALL: "3", labelled.LARGE: "2"},
        {labelled.SMALL: "Hello", labelled.LARGE: ""},
    ]
    labels = [Label(p.prompt, {}, answers=a) for p, a in zip(asked, answers, strict=True)]
    file = tmp_path / "labels.jsonl.gz"
    assert labelled.pack(asked, labels, file) == 2
    assert labelled.load(file).records.prompts == ("Say hello.",)
    whole = labelled.load(file, ["What is 1 + 1?", "What else?"])
    assert whole.records.prompts == ("What is 1 + 1?", "Say hello.")
    assert whole.records.quality.tolist() == [[0, 1], [1, 0]]


def test_routing_saves_on_prompts_that_nobody_trained_on(tmp_path: Path) -> None:
    plan = split(labelled.load(labelled.SHIPPED))
    parts = [
        set(part.records.prompts) for part in (plan.train, plan.certify, plan.test, plan.unseen)
    ]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert not set(plan.unseen.records.tasks) & set(plan.seen.records.tasks)
    predictor, certified = trained(plan, (0.1,), tmp_path / "router.safetensors")
    assert certified[0].promise() is not None
    small = goes_small(predictor, plan.test.records.prompts, Knob(drop=0.1))
    assert 0.3 < small.mean() < 0.8
    assert figures(plan.test.records, small)["prompts"] == str(len(small))
    gap = np.diff(plan.test.records.quality)[:, 0]
    assert gap[small].mean() < gap[~small].mean() - 0.2


def test_the_gateway_is_configured_with_a_knob_for_each_tenant(tmp_path: Path) -> None:
    settings = configuration(
        running("http://127.0.0.1:1", "http://127.0.0.1:2"), TENANTS, tmp_path / "router"
    )
    config = convert(msgspec.json.decode(msgspec.json.encode(settings)), source="test")
    known = {name: Knob(t.quality, t.drop) for name, t in config.tenants.items()}
    assert known == TENANTS
