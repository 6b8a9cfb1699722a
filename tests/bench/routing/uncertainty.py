"""Task families from few labels: PNCA beside a network of the same size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fairgate.routing.learning import metrics, pnca, records
from tests.bench.routing.data import embedded
from tests.bench.routing.signal import Row, written

Matrix = NDArray[np.float32]
Labels = NDArray[np.int64]

LABELS = 500
SEEDS = 5
INSIDE = 6
OUTSIDE = 4
QUARTER = 4


def rows(path: Path, cache: Path) -> Iterator[Row]:
    """Six MMLU-Pro subjects to tell apart, four others that neither has seen; new ones per seed.

    A quarter of the prompts, by hash, as sentence embeddings of MiniLM.
    """
    torch.set_num_threads(1)
    everything = records.load(path)
    few = everything.take(np.flatnonzero(records.folds(everything, QUARTER) == 0))
    x = embedded(few.prompts, cache / "mmlu_pro_quarter.minilm.npy")
    tasks = np.array(few.tasks)
    figures: dict[str, dict[str, list[float]]] = {"MLP": {}, "PNCA": {}}
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        subjects = random.permutation(np.unique(tasks))
        family = {subject: k for k, subject in enumerate(subjects[:INSIDE])}
        inside = random.permutation(np.flatnonzero(np.isin(tasks, subjects[:INSIDE])))
        outside = np.isin(tasks, subjects[INSIDE:][:OUTSIDE])
        labels = np.array([family.get(task, -1) for task in tasks])
        known, held = inside[:LABELS], inside[LABELS:]
        mean, scale = x[known].mean(axis=0), x[known].std(axis=0) + 1e-3
        z = ((x - mean) / scale).astype(np.float32)
        trained = pnca.fit(z[known], labels[known], INSIDE, seed)
        said = {
            "PNCA": (trained.probabilities(z[held]), trained.probabilities(z[outside])),
            "MLP": _mlp(z[known], labels[known], (z[held], z[outside]), seed),
        }
        for name, (near, strange) in said.items():
            right = near.argmax(axis=1) == labels[held]
            one = {
                "accuracy": float(right.mean()),
                "ECE": metrics.ece(near.max(axis=1), right),
                "confidence": float(near.max(axis=1).mean()),
                "confidence on unseen families": float(strange.max(axis=1).mean()),
            }
            for figure, value in one.items():
                figures[name].setdefault(figure, []).append(value)
    for name, columns in figures.items():
        yield {"classifier": name} | {figure: written(v) for figure, v in columns.items()}
    strange_to = "confidence on unseen families"
    mean = {
        name: {figure: float(np.mean(v)) for figure, v in columns.items()}
        for name, columns in figures.items()
    }
    ours, theirs = mean["PNCA"], mean["MLP"]
    yield {
        "classifier": "PNCA beside MLP",
        "accuracy": f"{ours['accuracy'] - theirs['accuracy']:+.3f}",
        "ECE": f"{ours['ECE'] / theirs['ECE']:.2f} x",
        strange_to: f"{ours[strange_to] - theirs[strange_to]:+.3f}",
    }
    yield {"classifier": "goal", "accuracy": ">= -0.02", "ECE": "<= 0.7 x", strange_to: "<= -0.05"}


def _mlp(x: Matrix, labels: Labels, asked: tuple[Matrix, ...], seed: int) -> list[Matrix]:
    torch.manual_seed(seed)
    layers = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], pnca.HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(pnca.HIDDEN, pnca.HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(pnca.HIDDEN, INSIDE),
    )
    optimizer = torch.optim.NAdam(layers.parameters(), lr=pnca.RATE)
    for _ in range(pnca.EPOCHS):
        loss = torch.nn.functional.cross_entropy(
            layers(torch.from_numpy(x)), torch.from_numpy(labels)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return [torch.softmax(layers(torch.from_numpy(a)), dim=1).numpy() for a in asked]
