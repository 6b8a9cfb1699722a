"""Recorded outcomes: which models answered which prompts right."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.encoders.base import Encoded
from fairgate.routing.encoders.ngrams import NGrams
from tests.bench.routing_real import labelled

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Recorded:
    """Prompts x (lanes) arrays; right is 1, wrong 0."""

    name: str
    models: tuple[str, ...]
    """The small lanes', then the reference's."""
    prompts: Sequence[str]
    tasks: NDArray[np.int64]
    small: Array
    """Outcomes of the small lanes, one recorded answer each."""
    reference: Array
    """Outcomes of the reference lane, one recorded answer."""

    @cached_property
    def encoded(self) -> list[Encoded]:
        """The prompts in numbers."""
        return [NGrams().encode(prompt) for prompt in self.prompts]


SOURCES: Mapping[str, tuple[str, Sequence[str], str]] = {
    "mmlu-pro": (
        "mmlu_pro_models.jsonl.gz",
        ("Meta-Llama-3_1-8B-Instruct", "Phi-3-mini-4k-instruct"),
        "Meta-Llama-3_1-70B-Instruct",
    ),
    "nine-models": (
        "llmrouter_9models.jsonl.gz",
        ("llama-3.1-8b-instruct", "qwen2.5-7b-instruct"),
        "llama-3.1-nemotron-51b-instruct",
    ),
}
"""File, small models, reference."""


def load(name: str, folder: Path) -> Recorded:
    """The records ``name`` of :data:`SOURCES`. A score of at least 0.5 is right."""
    file, small, reference = SOURCES[name]
    with gzip.open(folder / file, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    names = sorted({str(row["task"]) for row in rows})
    tasks = np.array([names.index(str(row["task"])) for row in rows])
    outcomes = np.array([[row["scores"][m] >= 0.5 for m in (*small, reference)] for row in rows])
    right = outcomes.astype(float)
    prompts = [row["prompt"] for row in rows]
    return Recorded(name, (*small, reference), prompts, tasks, right[:, :-1], right[:, -1])


def two_engines() -> Recorded:
    """What SmolLM2-135M and Qwen2.5-Coder-0.5B answered to the tasks that ``routing_real`` makes:
    labels that come with the project, one answer each at temperature 0."""
    known = labelled.load(labelled.SHIPPED).records
    names = sorted(set(known.tasks))
    right = known.quality.astype(float)
    tasks = np.array([names.index(task) for task in known.tasks])
    return Recorded("two-engines", known.models, known.prompts, tasks, right[:, :-1], right[:, -1])


def synthetic(prompts: int, seed: int) -> Recorded:
    """Records without data: a prompt's difficulty decides for all models, its words tell part.

    Two small models that are right about 45 times in 100, a reference 65 times; what the words tell
    separates right from wrong answers with an area of about 0.65, as texts do.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=prompts)
    told = 0.55 * difficulty + math.sqrt(1 - 0.55**2) * rng.normal(size=prompts)

    def outcomes(ease: float) -> Array:
        chance = 1 / (1 + np.exp(1.3 * (difficulty - ease)))
        return (rng.random(prompts) < chance).astype(float)

    small = np.column_stack([outcomes(-0.25), outcomes(-0.15)])
    texts = [_text(level, rng) for level in told.tolist()]
    tasks = np.zeros(prompts, int)
    return Recorded("synthetic", ("a", "b", "large"), texts, tasks, small, outcomes(0.6))


def _text(told: float, rng: np.random.Generator) -> str:
    """Says ``told`` by which of many words it has, most of which are near it, and how many."""
    words = np.clip(np.round(8 * (told + rng.normal(0, 0.3, 12)) + 32), 0, 63).astype(int)
    filling = rng.integers(0, 400, rng.integers(4, 30))
    return " ".join(
        [
            *(f"w{chr(97 + w // 8)}{chr(97 + w % 8)}" for w in words.tolist()),
            *(f"f{chr(97 + f // 20)}{chr(97 + f % 20)}" for f in filling.tolist()),
        ]
    )
