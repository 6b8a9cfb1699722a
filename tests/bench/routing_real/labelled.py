"""The labels made on the two engines: how they are kept, and read for measuring.

A line holds the prompt's ``task``, ``check`` and ``scores``. Generated prompts are kept as they
are, exam questions as the SHA-256 of their text: their words come from the data sets themselves.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fairgate.labelling.exact import Check, passes
from fairgate.labelling.run import Label, Prompt
from fairgate.routing.learning.records import Records

SMALL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LARGE = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
SHIPPED = Path(__file__).parent / "labels.jsonl.gz"
MAX_TOKENS = 32
"""Of an answer, when labels are made and when they are compared with."""

_EXAMS = ("mmlu", "gsm8k")


class Line(msgspec.Struct, omit_defaults=True):
    """One prompt with the score of both models' answers."""

    task: str
    check: Check
    scores: dict[str, float]
    prompt: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Prompts that can be asked again, with what both models made of them before."""

    records: Records
    checks: tuple[Check, ...]

    def take(self, which: NDArray[np.int64]) -> Labelled:
        """Those at these positions."""
        return Labelled(self.records.take(which), tuple(self.checks[i] for i in which))


def is_exam(task: str) -> bool:
    """Whether it comes from a public data set."""
    return task.startswith(_EXAMS)


def pack(prompts: Iterable[Prompt], labels: Iterable[Label], out: Path) -> int:
    """Score the answers in ``labels`` by the checks of ``prompts``, and keep them in ``out``."""
    asked = {prompt.prompt: prompt for prompt in prompts}
    lines = []
    for label in labels:
        prompt = asked[label.prompt]
        if prompt.check is None:
            raise ValueError(f"no check for the prompt {prompt.prompt[:40]!r}")
        scores = {
            model: float(passes(prompt.check, str(answer)))
            for model, answer in label.answers.items()
        }
        line = Line(str(prompt.task), prompt.check, scores)
        if is_exam(line.task):
            line.sha256 = digest(prompt.prompt)
        else:
            line.prompt = prompt.prompt
        lines.append(msgspec.json.encode(line) + b"\n")
    with gzip.GzipFile(out, "wb", mtime=0) as file:
        file.writelines(lines)
    return len(lines)


def load(file: Path, exams: Sequence[str] = ()) -> Labelled:
    """Read ``file``; of its exam questions those whose words are among ``exams``."""
    words: Mapping[str, str] = {digest(text): text for text in exams}
    with gzip.open(file) as lines:
        decoded = [msgspec.json.decode(line, type=Line) for line in lines]
    known = [(text, line) for line in decoded if (text := line.prompt or words.get(line.sha256))]
    samples = [[[line.scores[SMALL]], [line.scores[LARGE]]] for _, line in known]
    records = Records(
        (SMALL, LARGE),
        tuple(text for text, _ in known),
        tuple(line.task for _, line in known),
        np.array(samples, np.float32),
    )
    return Labelled(records, tuple(line.check for _, line in known))


def digest(text: str) -> str:
    """What an exam question is known by."""
    return sha256(text.encode()).hexdigest()
