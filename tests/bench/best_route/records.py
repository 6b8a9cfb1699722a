"""Recorded outcomes: which models answered which prompts right."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WORDS = 128
"""Buckets that words are hashed into."""


@dataclass(frozen=True)
class Records:
    """Prompts x (lanes) arrays; right is 1, wrong 0."""

    name: str
    features: Array
    tasks: NDArray[np.int64]
    small: Array
    """Outcomes of the small lanes, one recorded answer each."""
    reference: Array
    """Outcomes of the reference lane, one recorded answer."""


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


def load(name: str, folder: Path) -> Records:
    """The records ``name`` of :data:`SOURCES`. A score of at least 0.5 is right."""
    file, small, reference = SOURCES[name]
    with gzip.open(folder / file, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    names = sorted({str(row["task"]) for row in rows})
    tasks = np.array([names.index(str(row["task"])) for row in rows])
    outcomes = np.array([[row["scores"][m] >= 0.5 for m in (*small, reference)] for row in rows])
    right = outcomes.astype(float)
    features = np.array([text_features(row["prompt"]) for row in rows])
    return Records(name, features, tasks, right[:, :-1], right[:, -1])


def text_features(prompt: str) -> Array:
    """Hashed words, length and share of digits: no more than a router could use."""
    words = re.findall(r"\w+", prompt.lower())
    counts = np.zeros(WORDS)
    for word in words[:400]:
        counts[zlib.crc32(word.encode()) % WORDS] += 1
    counts = np.sqrt(counts)
    counts *= 4 / max(float(np.linalg.norm(counts)), 1.0)
    digits = sum(map(str.isdigit, prompt)) / max(len(prompt), 1)
    return np.append(counts, [math.log1p(len(words)) / 3, 5 * digits])


def synthetic(prompts: int, seed: int) -> Records:
    """Records without data: a prompt's difficulty decides for all models, features tell part of it.

    Two small models that are right about 45 times in 100, a reference 65 times; what can be told
    from the features separates right from wrong answers with an area of about 0.65, as texts do.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=prompts)
    told = 0.55 * difficulty + math.sqrt(1 - 0.55**2) * rng.normal(size=prompts)

    def outcomes(ease: float) -> Array:
        chance = 1 / (1 + np.exp(1.3 * (difficulty - ease)))
        return (rng.random(prompts) < chance).astype(float)

    small = np.column_stack([outcomes(-0.25), outcomes(-0.15)])
    features = np.column_stack([told, told**2])
    return Records("synthetic", features, np.zeros(prompts, int), small, outcomes(0.6))
