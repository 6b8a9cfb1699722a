"""Labels of several answers, made on the two engines: how they are kept, and read for training.

A line holds the prompt's ``task``, both models' ``scores`` for each answer, and how often each
scorer picks which answer. Exam questions are kept as the SHA-256 of their text, as in ``labelled``.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from fairgate.labelling.choosing import chosen
from fairgate.labelling.run import Label
from fairgate.routing.learning.records import Records
from fairgate.routing.learning.several_answers import chosen_by_score
from fairgate.scoring.base import Answer
from fairgate.scoring.self_consistency import SelfConsistency
from tests.bench.routing_real.labelled import LARGE, SMALL, digest, is_exam

SHIPPED = Path(__file__).parent / "several.jsonl.gz"
CHECKED = "check"
"""A scorer that is always right: the prompt's own check."""
BY_WORDS = "self-consistency"
"""A scorer that needs the answers' text alone, so that labels by another one tell it as well."""

Chances = dict[str, list[list[float]]]


class Line(msgspec.Struct, omit_defaults=True):
    """One prompt with the scores of several answers of both models."""

    task: str
    scores: dict[str, list[float]]
    chosen: dict[str, Chances]
    """By scorer and model, for 1, 2, … answers: how often each is picked."""
    prompt: str = ""
    sha256: str = ""


def pack(labels: Iterable[Label], out: Path) -> int:
    """Keep what ``fairgate router label --samples`` wrote, without the answers."""
    with gzip.GzipFile(out, "wb", mtime=0) as file:
        lines = [_line(label) for label in labels]
        file.writelines(msgspec.json.encode(line) + b"\n" for line in lines)
    return len(lines)


def _line(label: Label) -> Line:
    scores = {m: s for m, s in label.scores.items() if isinstance(s, list)}
    most = len(next(iter(label.chosen.values())))
    by_words = {
        model: asyncio.run(
            chosen(SelfConsistency(), label.prompt, [Answer(text) for text in texts], most)
        )
        for model, texts in label.answers.items()
        if isinstance(texts, list)
    }
    exam = is_exam(str(label.task))
    return Line(
        str(label.task),
        scores,
        {label.scorer: label.chosen, BY_WORDS: by_words},
        "" if exam else label.prompt,
        digest(label.prompt) if exam else "",
    )


def load(file: Path, exams: Sequence[str] = (), scorer: str = BY_WORDS) -> Records:
    """Read ``file`` as picked among by ``scorer``; of its exam questions those whose words are
    among ``exams``."""
    words: Mapping[str, str] = {digest(text): text for text in exams}
    with gzip.open(file) as lines:
        decoded = [msgspec.json.decode(line, type=Line) for line in lines]
    known = [(text, line) for line in decoded if (text := line.prompt or words.get(line.sha256))]
    models = (SMALL, LARGE)
    samples = np.array([[line.scores[m] for m in models] for _, line in known], np.float32)
    if scorer == CHECKED:
        most = len(known[0][1].chosen[BY_WORDS][SMALL])
        picked = chosen_by_score(samples.astype(np.float64), most)
    else:
        picked = np.array(
            [[line.chosen[scorer][m] for m in models] for _, line in known], np.float32
        )
    return Records(
        models,
        tuple(text for text, _ in known),
        tuple(line.task for _, line in known),
        samples,
        picked / picked.sum(axis=3, keepdims=True),
        scorer,
    )
