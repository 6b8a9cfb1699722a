"""Streams of requests with the recorded outcome of every lane."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairgate.routing.encoders.ngrams import NGrams
from fairgate.routing.satisfaction import sketch

THREE = ("mistral-7b-instruct-v0.3", "llama-3.1-8b-instruct", "llama-3.1-nemotron-51b-instruct")
PRICES = (1.0, 4.0, 20.0)


@dataclass(frozen=True)
class Stream:
    """Requests in the order in which they come."""

    lanes: tuple[str, ...]
    prices: tuple[float, ...]
    features: NDArray[np.float32]
    """Requests x size, folded."""
    good: NDArray[np.float64]
    """Requests x lanes: whether the lane's answer satisfies."""
    task: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.good)

    def shuffled(self, seed: int) -> Stream:
        """The same requests in another order."""
        return self._taken(np.random.default_rng(seed).permutation(len(self)))

    def by_task(self, seed: int) -> Stream:
        """Task after task: the traffic changes twice."""
        mixed = np.random.default_rng(seed).permutation(len(self))
        return self._taken(mixed[np.argsort(self.task[mixed], kind="stable")])

    def breaking(self, lane: int, seed: int) -> Stream:
        """Shuffled; in the second half, half of the good answers of ``lane`` are good no more."""
        mixed = self.shuffled(seed)
        good = mixed.good.copy()
        rng = np.random.default_rng(seed)
        half = len(self) // 2
        good[half:, lane] *= rng.random(len(self) - half) < 0.5
        return replace(mixed, good=good)

    def _taken(self, order: NDArray[np.int64]) -> Stream:
        return replace(
            self, features=self.features[order], good=self.good[order], task=self.task[order]
        )


def recorded(file: Path, models: Sequence[str] = THREE) -> Stream:
    """The outcomes in ``file`` (JSON lines, may be gzipped): a score of 0.5 satisfies."""
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    encode = NGrams().encode
    tasks = {task: n for n, task in enumerate(sorted({str(row["task"]) for row in rows}))}
    return Stream(
        lanes=tuple(models),
        prices=PRICES,
        features=np.array([sketch(encode(row["prompt"]).buckets) for row in rows]),
        good=np.array([[row["scores"][m] >= 0.5 for m in models] for row in rows], np.float64),
        task=np.array([tasks[str(row["task"])] for row in rows]),
    )


def made_up(requests: int, seed: int = 0) -> Stream:
    """Requests whose difficulty the features tell in part; needs no data."""
    rng = np.random.default_rng(seed)
    difficulty = rng.random(requests)
    kinds = rng.integers(0, 6, requests)
    told = np.stack([(difficulty * 8).astype(np.int64), 8 + kinds], axis=1)
    able = np.array([0.55, 0.8, 0.95])
    luck = rng.random((requests, 3)) * 0.4 - 0.2
    good = (difficulty[:, None] + luck < able[None, :] * 0.85).astype(np.float64)
    return Stream(
        lanes=("a", "b", "c"),
        prices=PRICES,
        features=np.array([sketch(x) for x in told]),
        good=good,
        task=kinds,
    )
