"""Reads records of how well each model answered each prompt.

Two forms, plain or gzipped. CSV with the columns ``task, prompt, weak_correct, strong_correct`` is
read as the models ``small`` and ``large``. JSON lines hold ``{"prompt": …, "task": …, "scores":
{model: score}}``; a score is a number in 0..1, or a list of them, one for each sampled answer.
Where several answers were picked among, ``chosen`` says how often each was, and ``scorer`` by what:
``{"chosen": {model: [[…], …]}}`` with a list for 1, 2, … answers drawn of those recorded, which
holds the chance of each recorded answer to be the one picked. `fairgate router label` writes both.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fairgate.errors import RecordsError

Scores = NDArray[np.float32]
Opened = gzip.GzipFile | io.BufferedReader

PAIR = ("small", "large")
_COLUMNS = ("task", "prompt", "weak_correct", "strong_correct")
_MAX_FIELD = 16 * 1024 * 1024
_PEEKED = 256
"""Bytes that tell the form; before it there may be blank lines."""
_ROUNDED = 0.01
"""What chances may lack of 1, or have above it."""
NOTHING = np.empty((0, 0, 0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class Records:
    """Outcomes of ``models`` (cheapest first) on prompts."""

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    tasks: tuple[str, ...]
    samples: Scores
    """Shape (prompts, models, samples): the score of each sampled answer, 0..1."""
    chosen: Scores = field(default_factory=lambda: NOTHING)
    """Shape (prompts, models, n, samples): the chance that of n drawn answers this one is picked;
    no n where the records do not say."""
    scorer: str = ""
    """What picked."""

    @property
    def most(self) -> int:
        """Most answers that were picked among; 0: the records do not say."""
        return int(self.chosen.shape[2])

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def quality(self) -> Scores:
        """Shape (prompts, models): the mean score over samples."""
        return np.asarray(self.samples.mean(axis=2), np.float32)

    def take(self, which: NDArray[np.int64]) -> Records:
        """The records at these positions."""
        return Records(
            self.models,
            tuple(self.prompts[i] for i in which),
            tuple(self.tasks[i] for i in which),
            self.samples[which],
            self.chosen[which] if self.most else NOTHING,
            self.scorer,
        )

    def only(self, models: Sequence[str]) -> Records:
        """The same prompts with the outcomes of these models, in this order.

        Raises ``RecordsError`` for a model that the records do not have.
        """
        for model in models:
            if model not in self.models:
                raise RecordsError(f"model {model!r}: the records have {', '.join(self.models)}")
        columns = [self.models.index(model) for model in models]
        chosen = self.chosen[:, columns] if self.most else NOTHING
        return replace(self, models=tuple(models), samples=self.samples[:, columns], chosen=chosen)


class _Line(msgspec.Struct):
    prompt: str
    scores: dict[str, float | list[float]]
    task: str | int = ""
    chosen: dict[str, list[list[float]]] = {}
    scorer: str = ""


def load(path: Path, prices: Mapping[str, float] | None = None) -> Records:
    """Read ``path``. ``prices`` order the models; without them, their mean quality does.

    Raises ``RecordsError`` that names the line, the field and the value at fault.
    """
    try:
        with _opened(path) as file:
            start = file.read(_PEEKED).lstrip()[:1]
            file.seek(0)
            if not start:
                raise RecordsError(f"{path}: holds no records")
            records = _from_lines(path, file) if start == b"{" else _from_csv(path, file)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise RecordsError(f"{path}: cannot be read: {error}") from error
    if not len(records):
        raise RecordsError(f"{path}: holds no records")
    return _ordered(records, prices)


def folds(records: Records, count: int, salt: str = "") -> NDArray[np.int64]:
    """Which of ``count`` parts each record belongs to, told by a hash of its prompt alone."""
    digests = (sha256((salt + prompt).encode()).digest()[:8] for prompt in records.prompts)
    return np.array([int.from_bytes(digest) % count for digest in digests], np.int64)


def _opened(path: Path) -> Opened:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


def _from_csv(path: Path, file: Opened) -> Records:
    csv.field_size_limit(_MAX_FIELD)
    prompts, tasks, samples = [], [], []
    with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        rows = csv.DictReader(text)
        missing = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
        if missing:
            raise RecordsError(f"{path}: column {missing[0]!r} is missing")
        for row in rows:
            where = f"{path}: line {rows.line_num}"
            samples.append([[_score(row[c], f"{where}: {c}")] for c in _COLUMNS[2:]])
            prompts.append(row["prompt"])
            tasks.append(row["task"])
    return Records(PAIR, tuple(prompts), tuple(tasks), np.array(samples, np.float32))


def _from_lines(path: Path, file: Opened) -> Records:
    lines = list(_lines(path, file))
    models = tuple(lines[0].scores)
    if not models:
        raise RecordsError(f"{path}: record 1: scores: expected two models or more, got none")
    samples = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}: record {number}: scores"
        if set(line.scores) != set(models):
            raise RecordsError(f"{where}: expected {sorted(models)}, got {sorted(line.scores)}")
        samples.append([_all_scores(line.scores[m], f"{where}.{m}") for m in models])
    counts = {len(one) for row in samples for one in row}
    if len(counts) != 1:
        raise RecordsError(f"{path}: scores: as many samples everywhere, got {sorted(counts)}")
    return Records(
        models,
        tuple(line.prompt for line in lines),
        tuple(str(line.task) for line in lines),
        np.array(samples, np.float32),
        _chosen(path, lines, models, counts.pop()),
        _scorer(path, lines),
    )


def _chosen(path: Path, lines: Sequence[_Line], models: Sequence[str], samples: int) -> Scores:
    """How often each answer was picked, if all lines tell."""
    most = len(next(iter(lines[0].chosen.values()), ()))
    if not any(line.chosen for line in lines):
        return NOTHING
    told = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}: record {number}: chosen"
        if set(line.chosen) != set(models):
            raise RecordsError(f"{where}: expected {sorted(models)}, got {sorted(line.chosen)}")
        told.append([_chances(line.chosen[m], most, samples, f"{where}.{m}") for m in models])
    return np.array(told, np.float32)


def _chances(rows: list[list[float]], most: int, samples: int, where: str) -> list[list[float]]:
    if not rows or len(rows) != most or len(rows) > samples:
        raise RecordsError(
            f"{where}: expected a list for 1 to {most or samples} answers, got {len(rows)} lists"
        )
    for row in rows:
        if len(row) != samples:
            raise RecordsError(f"{where}: expected {samples} chances (scores), got {len(row)}")
        if not (min(row) >= 0 and abs(sum(row) - 1) <= _ROUNDED):
            raise RecordsError(f"{where}: expected chances that sum to 1, got {row}")
    return [[chance / sum(row) for chance in row] for row in rows]


def _scorer(path: Path, lines: Sequence[_Line]) -> str:
    scorers = sorted({line.scorer for line in lines})
    if len(scorers) > 1:
        raise RecordsError(f"{path}: scorer: the same everywhere, got {scorers}")
    return scorers[0]


def _lines(path: Path, file: Opened) -> Iterator[_Line]:
    decode = msgspec.json.Decoder(_Line).decode
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield decode(line)
            except msgspec.DecodeError as error:
                raise RecordsError(f"{path}: line {number}: {error}") from error


def _all_scores(value: float | list[float], where: str) -> list[float]:
    if isinstance(value, list) and not value:
        raise RecordsError(f"{where}: expected at least one score, got none")
    return [_score(one, where) for one in (value if isinstance(value, list) else [value])]


def _score(value: str | float | None, where: str) -> float:
    try:
        score = float(value) if value is not None else -1.0
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise RecordsError(f"{where}: expected a number in 0..1, got {value!r}")
    return score


def _ordered(records: Records, prices: Mapping[str, float] | None) -> Records:
    if records.models == PAIR:
        return records
    if prices is None:
        quality = records.quality.mean(axis=0)
        return records.only(sorted(records.models, key=lambda m: quality[records.models.index(m)]))
    for model in records.models:
        if model not in prices:
            raise RecordsError(f"prices: {model} is missing")
    return records.only(sorted(records.models, key=lambda m: prices[m]))
